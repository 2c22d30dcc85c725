"""Presets and parameters of training."""
