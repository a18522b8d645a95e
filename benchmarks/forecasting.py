"""Holds forecasts against shapes that were not measured for them, and laws of a cut against each other.

    python benchmarks/forecasting.py examples/quickstart/recipe.yaml --folder build/forecasting

The recipe's forecast is made as `minitron forecast` makes it. Then half of `--shapes` shapes near the budget, of those
that keep most importance, and as many random mixes of the search space, none of which was measured, are measured the
same way. The table has the interval that was forecast and what came out; the other one how far each law misses the
measured points, each left out of the fit in turn, and the held-out shapes. What is measured is saved in the folder; a
run that was stopped goes on.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from minitron.api.forecast import forecast
from minitron.artifacts.json_files import write_json
from minitron.forecast.cut_forecast import make_cut_forecast
from minitron.forecast.fit import Point
from minitron.forecast.record import CutSizes
from minitron.models.shape import HybridShape
from minitron.pipeline.candidates.measure import measure_candidates
from minitron.pipeline.forecast.measuring import as_measured
from minitron.pipeline.forecast.space import ForecastSpace, open_space
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.sections import search_limits
from minitron.recipe.load import load_recipe
from minitron.recipe.recipe import Recipe
from minitron.report.forecast_table import describe_cut
from minitron.search.design import LAYERS, axis_options, cut_to
from minitron.search.solver import Candidate, solve_budget

LEAST_SHARE = 0.93  # of the budget
ALL = 10**9
# Law -> how axes add up, where it is given.
MIXINGS = {"KL adds": 1.0, "its root adds": 0.5, "mixing is fitted": None}


def held_out_of(recipe: Recipe, space: ForecastSpace, known: Sequence[CutSizes], number: int) -> list[Candidate]:
    """Shapes near the budget, evenly spaced in the order of importance, and random mixes; none of the known ones."""
    limits, workload = search_limits(recipe), recipe.budget.workload
    taken = [(each.num_hidden_layers, each.sizes) for each in known]
    found: list[Candidate] = []

    def is_new(candidate: Candidate) -> bool:
        cut = space.cut_sizes(candidate)
        return (cut.num_hidden_layers, cut.sizes) not in taken

    solved = solve_budget(space.space, workload, limits, top_k=ALL, rank_by="importance", shares=space.shares)
    near = [each for each in solved.candidates if each.memory.total_bytes >= LEAST_SHARE * limits.budget_bytes]
    near = [each for each in near if is_new(each)]
    near = near[: max(1, len(near) * 2 // 3)]
    half = min(number // 2, len(near))
    found += [near[round(place)] for place in np.linspace(0, len(near) - 1, half)]
    taken += [(cut.num_hidden_layers, cut.sizes) for cut in map(space.cut_sizes, found)]
    rng, options = np.random.default_rng(99), axis_options(space.space)
    while len(found) < number:
        sizes = {axis: int(rng.choice(tried)) for axis, tried in options.items() if rng.random() < 0.6}
        candidate = cut_to(space.space, workload, sizes) if len(sizes) > 1 else None
        if candidate is not None and is_new(candidate):
            found.append(candidate)
            taken.append((len(candidate.layers), space.cut_sizes(candidate).sizes))
    return found


def removed(cut: CutSizes, source: HybridShape) -> dict[str, float]:
    """Axis -> share of its units that is gone."""
    gone = {axis: 1 - size / source.sizes[axis] for axis, size in cut.sizes.items()}
    depth = 1 - cut.num_hidden_layers / source.num_hidden_layers
    return {**gone, LAYERS: depth} if depth else gone


def laws(
    cuts: Sequence[tuple[CutSizes, float]], source: HybridShape
) -> Iterator[tuple[str, list[Point], float | None]]:
    """Each law by its name: points as it sees them, and how axes add up."""
    kept = [math.prod(1 - share for share in cut.lost.values()) for cut, _ in cuts]
    yield "importance kept", [Point(lost={"all": 1 - one}, kl=kl) for one, (_, kl) in zip(kept, cuts, strict=True)], 1.0
    for what, mixing in MIXINGS.items():
        yield f"removed share, {what}", [Point(lost=removed(cut, source), kl=kl) for cut, kl in cuts], mixing
    for what, mixing in MIXINGS.items():
        yield f"lost importance, {what}", [Point(lost=cut.lost, kl=kl) for cut, kl in cuts], mixing


def laws_table(
    fitted: Sequence[tuple[CutSizes, float]],
    held: Sequence[tuple[CutSizes, float]],
    source: HybridShape,
    confidence: float,
) -> Table:
    """How far each law misses what it was not fitted to, logarithms of KL."""
    table = Table(title="Root mean square (largest) error of the logarithm of KL", title_justify="left")
    for column in ("law", "left out, one axis", "left out, mixes", "held out", "inside"):
        table.add_column(column, justify="right")
    for (name, points, mixing), (_, new, _) in zip(laws(fitted, source), laws(held, source), strict=True):
        found = make_cut_forecast(points, confidence=confidence, mixing=mixing)
        mixes = {each.point.kl for each in found.left_out} & {kl for cut, kl in fitted if len(cut.lost) > 1}
        errors = [
            [each.error for each in found.left_out if (each.point.kl in mixes) == mixed] for mixed in (False, True)
        ]
        missed = [math.log(each.kl / float(found.kl(each.lost))) for each in new]
        inside = [found.interval(each.lost).low <= each.kl <= found.interval(each.lost).high for each in new]
        table.add_row(name, *(_errors(each) for each in (*errors, missed)), f"{sum(inside)} of {len(inside)}")
    return table


def _errors(errors: Sequence[float]) -> str:
    return f"{np.sqrt(np.mean(np.square(errors))):.3f} ({np.abs(errors).max():.3f})"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="where scores and measurements are kept")
    parser.add_argument("--shapes", type=int, default=10, help="held-out shapes")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, tuple(args.set))
    record = forecast(recipe, output=args.folder)
    space = open_space(recipe, RunFolder(args.folder))
    fitted = [(each.cut, each.kl) for each in record.measured]
    points = [Point(lost=cut.lost, kl=kl) for cut, kl in fitted]
    found = make_cut_forecast(points, confidence=record.confidence)
    candidates = held_out_of(recipe, space, [cut for cut, _ in fitted], args.shapes)
    state = args.folder / "held_out"
    measured = measure_candidates(as_measured(recipe), space.source, space.scores, candidates, state)
    held, rows = [], []
    table = Table(title=f"{recipe.name}: held-out shapes", title_justify="left")
    for column in ("cut to", "forecast", "interval", "came out", "inside"):
        table.add_column(column, justify="right")
    for each in measured:
        cut, result = space.cut_sizes(each.candidate), each.repaired or each.zero_shot
        assert result is not None
        held.append((cut, result.kl))
        told, outside = found.interval(cut.lost), found.outside(cut.lost)
        inside = "refused" if outside else str(told.low <= result.kl <= told.high)
        rows.append(
            (describe_cut(cut), f"{told.predicted:.4f}", f"{told.low:.4f} to {told.high:.4f}", f"{result.kl:.4f}")
        )
        table.add_row(*rows[-1], inside)
    console = Console(width=140)
    console.print(table)
    console.print(laws_table(fitted, held, space.source.shape, record.confidence))
    write_json(args.folder / "forecasting.json", {"held_out": rows})


if __name__ == "__main__":
    main()
