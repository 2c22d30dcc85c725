"""Anomaly statistics of images: whole-image, local and feature statistics, and their combination."""
