"""From one forward pass to a calibrated, explained anomaly score."""
