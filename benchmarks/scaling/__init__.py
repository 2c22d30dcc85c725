"""Scaling beyond one process: replicas of the service, and what jobs cost the broker."""
