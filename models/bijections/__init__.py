"""Invertible maps with exact log-determinants; each file holds one of them."""
