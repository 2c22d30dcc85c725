"""Jobs: the broker, the job store, the Celery worker, and the supervisor of a training process."""
