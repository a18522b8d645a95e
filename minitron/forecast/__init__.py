"""Forecasts from few measurements: what a cut costs before anything is trained, and what a distillation will gain. No torch."""
