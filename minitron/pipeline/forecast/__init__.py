"""Forecasts of a run: cuts that are measured for them, what they say of other cuts, and of distillation."""
