"""Scoring of images over HTTP: request parsing, the queue of the scoring thread, and answers."""
