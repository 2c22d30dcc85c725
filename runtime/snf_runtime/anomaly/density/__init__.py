"""Densities of anomaly statistics: Gaussians, mixtures, tails, and conditioning on complexity."""
