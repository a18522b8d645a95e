"""Depth scores: block influence, and removal trials measured at the logits."""
