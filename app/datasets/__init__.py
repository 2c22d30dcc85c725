"""Datasets: endpoints and uploads."""
