"""Recommendation of a family of models for a dataset: pixels, features or both."""
