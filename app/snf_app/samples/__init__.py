"""Sampling: images drawn from a model over HTTP."""
