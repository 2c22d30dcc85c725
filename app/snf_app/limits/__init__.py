"""The API part for detection limits of models."""
