"""Anomaly detection: conformal p-values and verdicts with reasons, from the evidence of images."""
