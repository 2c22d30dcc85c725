"""Drift: a martingale test of whether scored images are still like the calibration images, and its alarms."""
