"""Cost of a training run: work counted on the meta device, and the time and memory that follow from it."""
