"""Statistics of an image: whole-image, local and gradient families, and their combination."""
