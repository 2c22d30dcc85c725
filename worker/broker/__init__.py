"""The broker: the embedded Valkey server or an external Redis, and Celery on it."""
