"""Anomaly detection: conformal p-values and verdicts with reasons, from statistics of a flow's forward pass."""
