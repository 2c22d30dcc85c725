"""Scoring of images by reference: nothing lost under kills, as fast as in memory, readable by others, over S3."""
