"""Scoring of images over HTTP, and the queue of the scoring thread."""
