"""Tar archives, written and read as streams."""
