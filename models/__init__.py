"""The mathematics of self normalizing flows and the life cycle of a model; knows nothing of HTTP, Redis or Celery."""
