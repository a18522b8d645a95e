"""Forecasts from few measurements: what a cut costs before training, and what a distillation gains. No torch."""
