"""Trained models over HTTP: versions, aliases, cards, files, and the pool of loaded models."""
