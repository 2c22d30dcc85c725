"""The message broker: an embedded Valkey server or an external Redis, and Celery on top of it."""
