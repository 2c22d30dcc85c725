"""Requests and answers of the service as pydantic models, one module a domain."""
