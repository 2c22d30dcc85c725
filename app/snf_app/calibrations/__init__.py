"""Calibrations: statistics of normal images that turn the likelihoods of a model into p-values."""
