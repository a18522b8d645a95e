"""A recipe's stages over a run folder: order, skipping, resuming, and the work of each stage."""
