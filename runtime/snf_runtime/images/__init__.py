"""Images: decoding and encoding of files, preprocessing, tiles, and dequantisation."""
