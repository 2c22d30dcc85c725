"""How well an anomaly score tells one dataset from others, beside trivial baselines; and a report of it."""
