"""Measures a model: loss and KL on held-out text, exact match on a task, generation speed."""
