"""Audits: recomputation of a model's log-likelihoods in float64, to check the scores that the service gives."""
