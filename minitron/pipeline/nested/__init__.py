"""Nested students of a run: which they are, how the weights that they share are sorted, and their extraction."""
