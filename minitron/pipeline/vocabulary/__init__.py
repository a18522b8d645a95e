"""Cutting the vocabulary of a checkpoint: the tokens of a text, what is written, and its record."""
