"""Calls about calibrations of a model."""
