"""Checkpoint -> a quantized checkpoint: what all formats share, from settings to the check of every weight."""
