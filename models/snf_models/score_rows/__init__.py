"""Rows of scores: their columns, the rows of a batch of images, and batches as columns of arrays."""
