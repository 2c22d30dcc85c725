"""Gradients of the log-likelihood with respect to weights, as evidence."""
