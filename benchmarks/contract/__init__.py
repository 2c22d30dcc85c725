"""The service against its own OpenAPI document, by schemathesis."""
