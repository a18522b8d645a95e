"""What predicts how well a candidate distills: importance, zero-shot, repaired, or a short distillation.

    python benchmarks/predictors.py examples/quickstart/recipe.yaml --folder build/predictors

The candidates are `--candidates` shapes of the recipe's search space that take 95% to 100% of its budget, evenly spaced
in the order of the importance that they keep. Each is cut and measured, repaired and measured, distilled on the first
`--short` tokens of a schedule of `--tokens` and measured, and distilled to its end. Every predictor's order is compared
with that of the end: rank correlations, and how far the one that it puts first ends from the best. What is measured is
saved in the folder; a run that was stopped goes on.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau, spearmanr

from minitron.artifacts.json_files import JsonObject, write_json
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.importance.scores import load_scores
from minitron.pipeline.candidates.bench import Bench, Measurement
from minitron.pipeline.candidates.saved import SavedMeasurements
from minitron.pipeline.candidates.space import scored_space
from minitron.pipeline.candidates.text import read_text
from minitron.pipeline.candidates.tournament import begin_candidate, train_candidate
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.runner import run_pipeline
from minitron.pipeline.sections import search_limits
from minitron.recipe.load import load_recipe
from minitron.recipe.recipe import Recipe
from minitron.search.solver import Candidate, solve_budget

LEAST_SHARE = 0.95  # of the budget
ALL = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """A predictor, and how it ranks.

    Attributes:
        name: Its name.
        values: What it gives each candidate; lower is better.
        seconds: What it takes a candidate, the median.
    """

    name: str
    values: Sequence[float]
    seconds: float

    def compare(self, ends: Sequence[float]) -> JsonObject:
        """Rank correlations with the end, and the end of its first choice over the best."""
        first = min(range(len(ends)), key=lambda index: self.values[index])
        return {
            "predictor": self.name,
            "spearman": float(spearmanr(self.values, ends).statistic),
            "kendall": float(kendalltau(self.values, ends).statistic),
            "choice_to_best": ends[first] / min(ends),
            "seconds": self.seconds,
        }


def candidates_of(recipe: Recipe, run: RunFolder, number: int) -> list[Candidate]:
    """So many candidates near the budget, evenly spaced in the order of importance."""
    source, scores = open_checkpoint(Path(recipe.teacher)).shape, load_scores(run.scores)
    space, shares = scored_space(recipe, source, scores)
    limits = search_limits(recipe)
    found = solve_budget(space, recipe.budget.workload, limits, top_k=ALL, rank_by="importance", shares=shares)
    near = [each for each in found.candidates if each.memory.total_bytes >= LEAST_SHARE * limits.budget_bytes]
    if len(near) < number:
        raise SystemExit(f"{number} candidates are asked for, {len(near)} shapes are near the budget")
    return [near[round(position * (len(near) - 1) / (number - 1))] for position in range(number)]


def measure(recipe: Recipe, candidates: Sequence[Candidate], folder: Path) -> tuple[SavedMeasurements, JsonObject]:
    """Every measurement of all candidates, and the median seconds that each kind took in this call."""
    source = open_checkpoint(Path(recipe.teacher))
    text = read_text(recipe, source, folder)
    bench = Bench(recipe, source, load_scores(RunFolder(folder).scores), text)
    saved, seconds = SavedMeasurements(folder), defaultdict(list)
    times = folder / "seconds.json"
    if times.is_file():
        seconds |= json.loads(times.read_text())
    for index, candidate in enumerate(candidates):
        student, own = None, folder / f"candidate-{index}"
        if index not in saved.measured:
            plan, started = bench.plan(candidate), time.monotonic()
            student = bench.cut(plan)
            zero_shot = bench.held_out(student)
            seconds["zero-shot"].append(time.monotonic() - started)
            started = time.monotonic()
            bench.repair(student, plan)
            repaired = bench.held_out(student)
            seconds["repaired"].append(time.monotonic() - started)
            saved.add(index, Measurement(zero_shot=zero_shot, repaired=repaired))
        for tokens in recipe.search.tournament.tokens:
            if (index, tokens) not in saved.standings:
                student = student or begin_candidate(bench, candidate, own)
                started = time.monotonic()
                standing = train_candidate(recipe, bench, student, own, tokens)
                seconds[str(tokens)].append(time.monotonic() - started)
                saved.add_standing(index, tokens, standing)
        write_json(times, seconds)
        _show(candidate, index, saved)
    return saved, {kind: statistics.median(found) for kind, found in seconds.items()}


def _show(candidate: Candidate, index: int, saved: SavedMeasurements) -> None:
    measured = saved.measured[index]
    kls = [measured.zero_shot.kl, measured.repaired.kl if measured.repaired else None]
    kls += [standing.loss for (number, _), standing in sorted(saved.standings.items()) if number == index]
    print(index, _describe(candidate), f"{candidate.retained:.4f}", *(f"{kl:.4f}" for kl in kls), flush=True)


def _describe(candidate: Candidate) -> str:
    shape = candidate.shape
    return f"{len(candidate.layers)}/{shape.hidden_size}/{shape.intermediate_size}/{shape.mamba_num_heads}"


def predictors_of(
    candidates: Sequence[Candidate], saved: SavedMeasurements, seconds: JsonObject, short: int
) -> list[Predictor]:
    """All predictors, the cheapest first."""
    numbers = range(len(candidates))
    repaired = [saved.measured[index].repaired for index in numbers]
    values: dict[str, list[float]] = {
        "importance": [-(each.retained or 0.0) for each in candidates],
        "largest": [-each.memory.total_bytes for each in candidates],
        "zero-shot": [saved.measured[index].zero_shot.kl for index in numbers],
        "repaired": [each.kl for each in repaired if each is not None],
        f"{short:,} tokens": [saved.standings[index, short].loss for index in numbers],
    }
    costs = {
        "zero-shot": seconds["zero-shot"],
        "repaired": seconds["repaired"],
        f"{short:,} tokens": seconds[str(short)],
    }
    return [Predictor(name=name, values=found, seconds=float(costs.get(name, 0))) for name, found in values.items()]


def results_table(title: str, rows: Sequence[JsonObject]) -> Table:
    """One row a predictor."""
    table = Table(title=title, title_justify="left")
    for column in ("predictor", "Spearman", "Kendall", "KL of its choice to the best", "seconds a candidate"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["predictor"]),
            f"{row['spearman']:.2f}",
            f"{row['kendall']:.2f}",
            f"{row['choice_to_best']:.2f}x",
            f"{row['seconds']:.1f}",
        )
    return table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="where scores and measurements are kept")
    parser.add_argument("--candidates", type=int, default=12)
    parser.add_argument("--short", type=int, default=8192, help="tokens of the short distillation")
    parser.add_argument("--tokens", type=int, default=65536, help="tokens of the long one")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    rounds = f"search.tournament.tokens=[{args.short}, {args.tokens}]"
    recipe = load_recipe(args.recipe, (rounds, "search.choose=tournament", *args.set))
    for _ in run_pipeline(recipe, args.folder, last="score"):
        pass
    candidates = candidates_of(recipe, RunFolder(args.folder), args.candidates)
    saved, seconds = measure(recipe, candidates, args.folder)
    ends = [saved.standings[index, args.tokens].loss for index in range(len(candidates))]
    rows = [each.compare(ends) for each in predictors_of(candidates, saved, seconds, args.short)]
    write_json(args.folder / "predictors.json", {"ends": ends, "predictors": rows})
    Console(width=120).print(
        results_table(f"{recipe.name}: {len(candidates)} candidates, {args.tokens:,} tokens", rows)
    )


if __name__ == "__main__":
    main()
