"""Recommendation of a family of models for a dataset: pixels, features or both, fitted to a subset and compared."""
