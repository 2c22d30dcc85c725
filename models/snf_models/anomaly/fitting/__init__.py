"""Calibration of a model: statistics of reference images are computed, and densities are fitted to them."""
