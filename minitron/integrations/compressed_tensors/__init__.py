"""Quantized checkpoints in the compressed-tensors format, rounded here and streamed from file to file."""
