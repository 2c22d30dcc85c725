"""Datasets of images: upload, validation, listing and deletion over HTTP."""
