"""Candidates of a search, measured: right after the cut, repaired, or after a short distillation."""
