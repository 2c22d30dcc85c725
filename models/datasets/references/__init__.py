"""Datasets by reference: images that stay where they are, at a location, and an index of them."""
