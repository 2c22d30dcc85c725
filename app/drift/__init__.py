"""Drift: whether recent images are still like those of the calibration."""
