"""Text to packed sequences of tokens: documents, sources, shuffling, packing, calibration samples."""
