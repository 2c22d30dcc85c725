"""Training presets: named architectures with their training parameters."""
