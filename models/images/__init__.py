"""Images: files to pixels and back, preprocessing, and dequantisation."""
