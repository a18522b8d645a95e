"""Which way of choosing among candidates pays: each way's choice distilled in full, at equal tokens.

    python benchmarks/choosing.py examples/quickstart/recipe.yaml --seeds 0 1 2

For each seed and each way the search stage is run alone; then the chosen shape is pruned, distilled on all of the
recipe's tokens and measured on held-out text, once for ways that choose the same. `largest` is the published rule.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from minitron.pipeline.run_folder import read_candidates, read_metrics
from minitron.pipeline.runner import run_pipeline
from minitron.recipe.load import load_recipe
from minitron.recipe.recipe import Recipe

WAYS = ("largest", "importance", "zero_shot", "tournament")


def chosen(recipe: Recipe, folder: Path) -> tuple[dict[str, Any], float]:
    """The first candidate of a search, and the seconds that the search took."""
    started = time.monotonic()
    for _ in run_pipeline(recipe, folder, last="search"):
        pass
    candidate: dict[str, Any] = read_candidates(folder / "search")["candidates"][0]
    return candidate, time.monotonic() - started


def run_seed(path: Path, overrides: tuple[str, ...], ways: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Way -> the shape it chose and its metrics before and after distillation."""
    results: dict[str, dict[str, Any]] = {}
    by_shape: dict[str, dict[str, Any]] = {}
    for way in ways:
        recipe = load_recipe(path, (*overrides, f"search.choose={way}"))
        candidate, seconds = chosen(recipe, folder)
        key = json.dumps([candidate["shape"], candidate["layers"]])
        if key not in by_shape:
            for _ in run_pipeline(recipe, folder, last="evaluate"):
                pass
            by_shape[key] = read_metrics(folder / "evaluate")
        metrics = by_shape[key]
        results[way] = {
            "shape": candidate["shape"],
            "layers": candidate["layers"],
            "search_s": seconds,
            "pruned": metrics["pruned"],
            "distilled": metrics["distilled"],
        }
        shown = {name: round(metrics[name]["kl_to_teacher"], 4) for name in ("pruned", "distilled")}
        print(f"seed {recipe.seed}: {way} chose {_describe(candidate)} in {seconds:.0f} s: {shown}", flush=True)
    return results


def results_table(results: dict[int, dict[str, dict[str, Any]]]) -> Table:
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
            distilled = found["distilled"]
            table.add_row(
                str(seed),
                way,
                _describe(found),
                f"{distilled['memory']['total_bytes']:,}",
                f"{found['pruned']['kl_to_teacher']:.4f}",
                f"{distilled['kl_to_teacher']:.4f}",
                f"{distilled['loss']:.4f}",
                f"{distilled['exact_match']:.1%}",
                f"{found['search_s']:.0f} s",
            )
        table.add_section()
    return table


def _describe(candidate: dict[str, Any]) -> str:
    shape = candidate["shape"]
    return (
        f"{len(candidate['layers'])} / {shape['hidden_size']} / {shape['intermediate_size']} / "
        f"{shape['mamba_num_heads']}x{shape['mamba_head_dim']}"
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
            args.json.write_text(json.dumps(results, indent=2))
    Console(width=150).print(results_table(results))


if __name__ == "__main__":
    main()
