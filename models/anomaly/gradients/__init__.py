"""Gradients of the log-likelihood with respect to weights and pixels, for anomaly verdicts."""
