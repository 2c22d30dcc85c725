"""Drift: whether recent images still look like those of the calibration."""
