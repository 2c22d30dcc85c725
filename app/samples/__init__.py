"""Calls that draw samples."""
