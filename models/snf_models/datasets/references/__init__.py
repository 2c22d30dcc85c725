"""Datasets by reference: images that stay at a location, and an index of them."""
