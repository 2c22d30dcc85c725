"""Scoring with trained flows: freezing, engines, exact log-likelihoods, statistics of images, and sampling."""
