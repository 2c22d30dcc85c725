"""Calibration of a model: a pass over reference images, and statistics fitted to it."""
