"""A run's forecast: cuts are measured, the law is fitted, record and picture are written."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict

from minitron.artifacts.json_files import write_json
from minitron.estimate.serving.memory import memory_bytes
from minitron.forecast.cut_forecast import CutForecast, make_cut_forecast
from minitron.forecast.fit import Point
from minitron.forecast.record import ForecastRecord, MeasuredCuts, RecoveryForecast
from minitron.pipeline.forecast.cuts import CutPredictor
from minitron.pipeline.forecast.measuring import measure_cuts
from minitron.pipeline.forecast.space import ForecastSpace
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.sections import with_cut_teacher
from minitron.recipe.recipe import Recipe
from minitron.report.forecast_figure import draw_forecast
from minitron.search.solver import Candidate


def make_forecast(
    given: Recipe,
    run: RunFolder,
    space: ForecastSpace,
    *,
    asked: Sequence[Candidate] = (),
    recovery: RecoveryForecast | None = None,
) -> ForecastRecord:
    """Measures what is not measured yet, fits, predicts, and writes `forecast.json` and `forecast.png` in the run.

    Args:
        given: The recipe as it was given.
        run: The run, whose scores are there.
        space: Its scored source and what is searched.
        asked: Shapes that are asked for.
        recovery: What was forecast of distillations.

    Raises:
        MinitronError: Cuts cannot be measured or are too few, or an asked shape is outside what was measured.
    """
    recipe = with_cut_teacher(given, run)
    measured = measure_cuts(recipe, run, space, given)
    forecast = fit_cuts(measured, confidence=recipe.forecast.confidence)
    predictor = CutPredictor(recipe=recipe, space=space, forecast=forecast)
    for candidate in asked:
        forecast.predict(space.cut_sizes(candidate).lost)  # refuses what is outside
    front, best = predictor.front()
    missed = [math.expm1(abs(each.error)) for each in forecast.left_out]
    record = ForecastRecord(
        name=recipe.name,
        repaired=measured.repaired,
        confidence=forecast.confidence,
        budget_bytes=recipe.budget.budget_bytes,
        source_bytes=memory_bytes(space.source.shape, recipe.budget.workload).total_bytes,
        mixing=forecast.law.mixing,
        typical_error=statistics.median(missed),
        largest_error=max(missed),
        axes=predictor.axes(),
        front=front,
        best=best,
        measured=measured.points,
        asked=tuple(predictor.predicted(candidate) for candidate in asked),
        recovery=recovery,
    )
    write_json(run.forecast, asdict(record))
    draw_forecast(record, run.forecast_picture)
    return record


def fit_cuts(measured: MeasuredCuts, *, confidence: float) -> CutForecast:
    """The law of measured cuts, with what it misses by."""
    points = [Point(lost=each.cut.lost, kl=each.kl) for each in measured.points]
    return make_cut_forecast(points, confidence=confidence)
