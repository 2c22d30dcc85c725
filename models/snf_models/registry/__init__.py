"""The registry: versions, aliases and calibrations of models on disk."""
