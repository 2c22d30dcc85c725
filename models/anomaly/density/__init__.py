"""Densities of statistics: Gaussians, mixtures, tails, and conditioning on complexity."""
