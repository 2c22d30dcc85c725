"""Calls that score images, and the queue of the scoring thread."""
