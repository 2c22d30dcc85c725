"""Images: provenance of training images, and options of how they are brought to one size and colour."""
