"""Bulk scoring of more images than fit in memory, in parts that survive an interruption."""
