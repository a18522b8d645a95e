"""What a person looks at: tables here; pictures are in `minitron.report.figure`, which loads matplotlib."""

from minitron.report.forecast import (
    disk_table,
    forecast_lines,
    shapes_table,
    stages_table,
    training_memory_table,
)
from minitron.report.plan import plan_diff_table, plan_table
from minitron.report.table import (
    candidates_table,
    fit_table,
    format_bytes,
    metrics_table,
    quantised_table,
    scores_table,
)

__all__ = [
    "candidates_table",
    "disk_table",
    "fit_table",
    "forecast_lines",
    "format_bytes",
    "metrics_table",
    "plan_diff_table",
    "plan_table",
    "quantised_table",
    "scores_table",
    "shapes_table",
    "stages_table",
    "training_memory_table",
]
