"""Calls about jobs: checks before one is queued, its events, and its files."""
