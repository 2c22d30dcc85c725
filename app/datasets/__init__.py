"""Calls about datasets, and their upload."""
