"""Samples of a model."""
