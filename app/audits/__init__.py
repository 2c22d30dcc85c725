"""Audits of a model's scores."""
