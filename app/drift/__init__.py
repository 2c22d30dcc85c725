"""Drift: tests whether the p-values of recently scored images still fit those of the calibration images."""
