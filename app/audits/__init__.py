"""Calls that audit the scores of a model."""
