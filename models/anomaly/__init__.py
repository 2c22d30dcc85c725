"""Anomaly detection: fitting of calibrations, gradients, drift and exchangeability."""
