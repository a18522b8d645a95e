"""Stage `report`: metrics + loss curve -> a picture."""

from minitron.pipeline.context import StageContext
from minitron.pipeline.run_folder import PICTURE_FILE
from minitron.pipeline.training import read_training_record
from minitron.report.run_figure import RunSummary, draw_summary


def run(context: StageContext) -> None:
    """Draws the run's summary."""
    budget = context.recipe.budget
    summary = RunSummary(
        title=context.recipe.name,
        metrics=context.run.read_metrics(),
        curve=read_training_record(context.run.record).curve,
        budget_bytes=budget.budget_bytes,
        context_tokens=budget.context_tokens,
    )
    draw_summary(summary, context.output / PICTURE_FILE)
