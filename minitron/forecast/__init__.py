"""What a run would do, from a recipe and the teacher's configuration alone: no weights, no text, no torch."""

from minitron.forecast.run import forecast_run

__all__ = ["forecast_run"]
