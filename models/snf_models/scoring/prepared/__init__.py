"""Densities that were opened from their trained flows before, kept in a cache to be opened again without PyTorch."""
