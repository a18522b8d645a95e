"""Stage `report`: metrics + loss curve -> a picture; and that of a forecast, where the run has one."""

from minitron.artifacts.json_files import read_record
from minitron.forecast.record import ForecastRecord
from minitron.pipeline.context import StageContext
from minitron.pipeline.run_folder import FORECAST_PICTURE_FILE, PICTURE_FILE
from minitron.pipeline.training import read_training_record
from minitron.report.forecast_figure import draw_forecast
from minitron.report.run_figure import RunSummary, draw_summary


def run(context: StageContext) -> None:
    """Draws the run's summary."""
    budget, record = context.recipe.budget, read_training_record(context.run.record)
    watched = record.validation
    summary = RunSummary(
        title=context.recipe.name,
        metrics=context.run.read_metrics(),
        curve=record.curve,
        validation=() if watched is None else watched.curve,
        kept_tokens=None if watched is None else watched.kept_tokens,
        budget_bytes=budget.budget_bytes,
        context_tokens=budget.context_tokens,
    )
    draw_summary(summary, context.output / PICTURE_FILE)
    if context.run.forecast.is_file():
        draw_forecast(read_record(context.run.forecast, ForecastRecord), context.output / FORECAST_PICTURE_FILE)
