"""Anomaly detection: fitting of calibrations, drift and exchangeability."""
