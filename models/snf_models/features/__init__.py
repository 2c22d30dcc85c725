"""Features of images by frozen networks: backbones, extraction, and closed-form fits of flows over features."""
