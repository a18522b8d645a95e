"""Which way of choosing among candidates pays: each way's choice distilled in full, at equal tokens.

    python benchmarks/choosing.py examples/quickstart/widths.yaml --seeds 0 1 2

For each seed and each way the search stage is run alone; then the chosen shape is pruned, distilled on all of the
recipe's tokens and measured on held-out text, once for ways that choose the same. `largest` is the published rule.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from arms import kl_of, percent
from rich.console import Console
from rich.table import Table

from minitron.artifacts.json_files import JsonObject
from minitron.evaluate.metrics import Metrics
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.runner import run_pipeline
from minitron.recipe.load import load_recipe
from minitron.recipe.recipe import Recipe
from minitron.search.record import CandidateRecord

WAYS = ("largest", "importance", "zero_shot", "tournament")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a way of choosing came to.

    Attributes:
        candidate: The shape that it chose.
        search_s: Seconds of the search.
        pruned: Metrics before distillation.
        distilled: Metrics after it.
    """

    candidate: CandidateRecord
    search_s: float
    pruned: Metrics
    distilled: Metrics

    def to_json(self) -> JsonObject:
        """As JSON."""
        return {
            "shape": asdict(self.candidate.shape),
            "layers": list(self.candidate.layers),
            "search_s": self.search_s,
            "pruned": self.pruned.to_json(),
            "distilled": self.distilled.to_json(),
        }


def chosen(recipe: Recipe, folder: Path) -> tuple[CandidateRecord, float]:
    """The first candidate of a search, and the seconds that the search took."""
    started = time.monotonic()
    for _ in run_pipeline(recipe, folder, last="search"):
        pass
    return RunFolder(folder).read_candidates().candidates[0], time.monotonic() - started


def run_seed(path: Path, overrides: tuple[str, ...], ways: list[str], folder: Path) -> dict[str, Choice]:
    """Way -> the shape it chose and its metrics before and after distillation."""
    results: dict[str, Choice] = {}
    by_shape: dict[tuple[object, ...], dict[str, Metrics]] = {}
    for way in ways:
        recipe = load_recipe(path, (*overrides, f"search.choose={way}"))
        candidate, seconds = chosen(recipe, folder)
        key = (candidate.shape, candidate.layers)
        if key not in by_shape:
            for _ in run_pipeline(recipe, folder, last="evaluate"):
                pass
            by_shape[key] = RunFolder(folder).read_metrics()
        pruned, distilled = (by_shape[key][name] for name in ("pruned", "distilled"))
        results[way] = Choice(candidate=candidate, search_s=seconds, pruned=pruned, distilled=distilled)
        shown = f"KL {kl_of(pruned):.4f} pruned, {kl_of(distilled):.4f} distilled"
        print(f"seed {recipe.seed}: {way} chose {_describe(candidate)} in {seconds:.0f} s: {shown}", flush=True)
    return results


def results_table(results: dict[int, dict[str, Choice]]) -> Table:
    """One row a seed and way."""
    table = Table(title="Ways of choosing, distilled in full at equal tokens", title_justify="left")
    for column in (
        "seed",
        "chosen by",
        "shape",
        "memory, bytes",
        "KL pruned",
        "KL distilled",
        "loss",
        "exact",
        "search",
    ):
        table.add_column(column, justify="right")
    for seed, ways in results.items():
        for way, found in ways.items():
            table.add_row(
                str(seed),
                way,
                _describe(found.candidate),
                f"{found.distilled.memory.total_bytes:,}",
                f"{kl_of(found.pruned):.4f}",
                f"{kl_of(found.distilled):.4f}",
                f"{found.distilled.loss:.4f}",
                percent(found.distilled.exact_match),
                f"{found.search_s:.0f} s",
            )
        table.add_section()
    return table


def _describe(candidate: CandidateRecord) -> str:
    shape = candidate.shape
    return (
        f"{len(candidate.layers)} / {shape.hidden_size} / {shape.intermediate_size} / "
        f"{shape.mamba_num_heads}x{shape.mamba_head_dim}"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    results = {}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            results[seed] = run_seed(args.recipe, (*args.set, f"seed={seed}"), args.ways, Path(folder))
        if args.json:
            shown = {seed: {way: each.to_json() for way, each in ways.items()} for seed, ways in results.items()}
            args.json.write_text(json.dumps(shown, indent=2))
    Console(width=150).print(results_table(results))


if __name__ == "__main__":
    main()
