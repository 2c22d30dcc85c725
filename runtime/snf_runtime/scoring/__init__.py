"""Scoring: exact log-likelihoods of images and the statistics that verdicts are made of."""
