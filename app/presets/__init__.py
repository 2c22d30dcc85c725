"""Calls that list presets and parameters of training."""
