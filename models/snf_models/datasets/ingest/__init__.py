"""Ingest of uploads: archives, arrays and image files become the images of a dataset, within limits."""
