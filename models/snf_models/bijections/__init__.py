"""Bijections: invertible maps with exact log-determinants, each in a file of its own."""
