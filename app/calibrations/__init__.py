"""Calibrations of a model."""
