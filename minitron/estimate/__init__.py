"""Arithmetic without torch: device profiles, precisions, and estimates of serving and training."""
