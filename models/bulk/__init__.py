"""Scoring of more images than fit in memory: sources read by range, parts that survive an interruption, one table."""
