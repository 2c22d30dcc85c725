"""The mathematics of self normalizing flows and the life cycle of a model, without HTTP, Redis or Celery."""
