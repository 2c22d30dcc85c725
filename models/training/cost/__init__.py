"""What a training run costs: work counted on the meta device, and the time and memory that follow from it."""
