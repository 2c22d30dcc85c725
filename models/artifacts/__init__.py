"""Artifacts: a trained model as a folder of files, immutable once written."""
