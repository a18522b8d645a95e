"""Weighted averages of checkpoints of one shape."""
