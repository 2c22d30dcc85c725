"""Training: configuration, data order, the loop, checkpoints and what turns a trained flow into an artifact."""
