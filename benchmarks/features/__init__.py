"""Benchmarks of feature models: what they find, how often they raise false alarms, how fast and how exact they are."""
