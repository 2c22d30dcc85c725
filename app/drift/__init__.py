"""Drift: tests whether scored images still fit the calibration images, alarms, and their acknowledgement."""
