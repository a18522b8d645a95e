"""Scores + candidate -> a smaller checkpoint that plain transformers loads."""
