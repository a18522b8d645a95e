"""Measures the cuts that a forecast is fitted to; what is measured is saved as it comes, a killed call goes on."""

from dataclasses import asdict
from pathlib import Path

from minitron.artifacts.artifact import write_artifact
from minitron.artifacts.finished import find_finished
from minitron.artifacts.header import STATE_FOLDER, hash_inputs
from minitron.artifacts.json_files import JsonObject, as_json, read_record, write_json
from minitron.forecast.record import MeasuredCut, MeasuredCuts
from minitron.pipeline import fingerprints
from minitron.pipeline.candidates.measure import Measured, measure_candidates
from minitron.pipeline.forecast.space import ForecastSpace, require_scores
from minitron.pipeline.run_folder import POINTS_FILE, RunFolder
from minitron.pipeline.runner import ARTIFACT_VERSION, stage_inputs
from minitron.recipe.recipe import Recipe
from minitron.search.design import design
from minitron.search.solver import Candidate

STAGE = "forecast"


def measure_cuts(recipe: Recipe, run: RunFolder, space: ForecastSpace, given: Recipe) -> MeasuredCuts:
    """Measures the forecast's cuts, or reads them where they are measured already.

    Args:
        recipe: The recipe as stages after `vocabulary` follow it.
        run: The run, whose scores are there.
        space: The scored source and what is searched.
        given: The recipe as it was given, whose scores those are.

    Raises:
        MinitronError: The search cuts nothing, an axis has no scores, memory is short, or another process measures.
    """
    settings, measuring = recipe.forecast, as_measured(recipe)
    candidates = design(
        space.space,
        recipe.budget.workload,
        levels=settings.levels,
        mixes=settings.mixes,
        seed=recipe.seed,
    )
    for candidate in candidates:
        require_scores(space, space.cut_sizes(candidate))
    inputs = _inputs(measuring, given, candidates)
    folder = run.forecast_points
    if find_finished(folder, inputs) is None:
        with write_artifact(folder, stage=STAGE, inputs=inputs, seed=recipe.seed) as output:
            measured = measure_candidates(measuring, space.source, space.scores, candidates, output / STATE_FOLDER)
            write_json(output / POINTS_FILE, asdict(_record(space, candidates, measured)))
    return read_points(folder)


def read_points(folder: Path) -> MeasuredCuts:
    """What has been measured."""
    return read_record(folder / POINTS_FILE, MeasuredCuts)


def as_measured(recipe: Recipe) -> Recipe:
    """The recipe as its candidates are measured: repaired where the run's own student will be."""
    repairs = recipe.prune.repair is not None or recipe.search.choose == "repaired"
    search = recipe.search.model_copy(update={"choose": "repaired" if repairs else "zero_shot"})
    return recipe.model_copy(update={"search": search})


def _inputs(measuring: Recipe, given: Recipe, candidates: tuple[Candidate, ...]) -> JsonObject:
    cuts = [as_json({"layers": each.layers, "sizes": each.shape.sizes}) for each in candidates]
    return {
        "version": ARTIFACT_VERSION,
        "seed": given.seed,
        "settings": fingerprints.forecast(measuring, cuts),
        "score": hash_inputs(stage_inputs(given)["score"]),
    }


def _record(space: ForecastSpace, candidates: tuple[Candidate, ...], measured: list[Measured]) -> MeasuredCuts:
    by_cut = {(each.candidate.layers, each.candidate.shape): each for each in measured}
    points = []
    for candidate in candidates:
        found = by_cut[candidate.layers, candidate.shape]
        assert found.zero_shot is not None
        kept = found.repaired or found.zero_shot
        points.append(MeasuredCut(cut=space.cut_sizes(candidate), zero_shot=found.zero_shot.kl, kl=kept.kl))
    return MeasuredCuts(repaired=all(each.repaired is not None for each in measured), points=tuple(points))
