"""Multi-scale flows: their architectures as data, their modules, and the builder."""
