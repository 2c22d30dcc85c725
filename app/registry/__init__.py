"""Models, their versions, cards and artifacts, and the pool of loaded models."""
