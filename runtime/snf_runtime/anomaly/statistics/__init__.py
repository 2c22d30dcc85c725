"""Anomaly statistics of images: whole-image, local and gradient statistics, and their combination."""
