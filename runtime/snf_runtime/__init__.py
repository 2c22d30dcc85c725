"""Scores and verdicts of images by an exported model, without torch: what the service runs, and a runner of its own."""
