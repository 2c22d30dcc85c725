"""Evaluation of a model: how well its anomaly scores separate datasets, compared with trivial baselines."""
