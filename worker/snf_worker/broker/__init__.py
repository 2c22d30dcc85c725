"""Message broker of the job queues: an embedded Valkey server or an external Redis, and Celery on top of it."""
