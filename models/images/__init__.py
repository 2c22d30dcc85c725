"""Images: decoding and encoding of files, preprocessing, provenance, and dequantisation."""
