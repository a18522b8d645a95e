"""Text to token blocks: documents, sources, shuffling, packing, calibration samples."""
