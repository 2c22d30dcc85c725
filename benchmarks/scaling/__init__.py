"""Scaling beyond one process: replicas of the service, simulated and measured, and plans from measured costs."""
