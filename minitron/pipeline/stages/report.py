"""Metrics and loss curve -> one picture."""

import json
from pathlib import Path

from minitron.pipeline.run_folder import RECORD_FILE, Folders, read_metrics
from minitron.recipe.recipe import Recipe
from minitron.report.run_figure import draw_summary


def run_report(recipe: Recipe, folders: Folders, output: Path) -> None:
    """Metrics and loss curve -> one picture."""
    draw_summary(
        read_metrics(folders["evaluate"]),
        budget_bytes=recipe.budget.budget_bytes,
        context_tokens=recipe.budget.context_tokens,
        curve=json.loads((folders["distill"] / RECORD_FILE).read_text())["curve"],
        title=recipe.name,
        path=output / "summary.png",
    )
