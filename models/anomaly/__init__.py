"""Anomaly detection: calibrated p-values and verdicts with reasons, from the evidence of one forward pass."""
