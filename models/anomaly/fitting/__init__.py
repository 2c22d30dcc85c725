"""Fitting the statistics of a calibration on reference images."""
