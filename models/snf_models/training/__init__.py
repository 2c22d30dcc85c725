"""Training of flows: settings and presets, objective, training loop, checkpoints, and writing the artifact."""
