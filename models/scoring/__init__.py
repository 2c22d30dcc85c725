"""From a trained flow to exact, reproducible scores: freezing, engines, likelihood, calibration."""
