"""Which score to trust: zero-shot KL to the teacher after cutting one axis at a time, by every score.

    python benchmarks/score_choices.py examples/quickstart/widths.yaml

For each seed (of the calibration text) and each cut, the teacher is cut by every score, and its KL to the teacher on
the recipe's held-out text is measured right away, without distillation. Lower is better. The order of scores after a
short distillation may differ; see `benchmarks/recovery.py` for a whole run.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.samples import blend_samples
from minitron.data.sequences import blend_sources
from minitron.evaluate.perplexity import evaluate_text
from minitron.importance.calibrate import calibrate
from minitron.importance.scores import Scores, random_scores
from minitron.importance.selection import select_units, top_blocks
from minitron.importance.settings import CalibrationSettings, DepthSettings, WidthSettings
from minitron.models.quotas import BlockQuotas
from minitron.models.shape import HybridShape
from minitron.pipeline.text import text_sources
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.plan import PrunePlan
from minitron.recipe.load import load_recipe
from minitron.recipe.recipe import Recipe
from minitron.runtime.loading import load_model, load_tokenizer
from minitron.runtime.stack import MemoryStack

WIDTH = {
    "published": WidthSettings.uniform("activation"),
    "FLAP": WidthSettings.uniform("flap"),
    "output energy": WidthSettings.uniform("output_energy"),
}
DEPTH = {
    "block influence": DepthSettings(),
    "logit MSE, one sweep": DepthSettings(scorer="logit_mse", samples=64),
    "logit KLD, one sweep": DepthSettings(scorer="logit_kld", samples=64),
    "logit MSE, greedy": DepthSettings(scorer="logit_mse", remove=3, samples=64),
    "logit KLD, greedy": DepthSettings(scorer="logit_kld", remove=3, samples=64),
}


def cuts(source: HybridShape) -> Iterator[tuple[str, str, HybridShape]]:
    """(axis, label, target): three cuts of each width axis where its groups allow them."""
    for axis, shares in (
        ("hidden_size", (0.9, 0.8, 0.6)),
        ("intermediate_size", (0.75, 0.5, 0.25)),
        ("mamba_num_heads", (5 / 6, 2 / 3, 1 / 2)),
        ("mamba_head_dim", (0.75, 0.5, 0.25)),
        ("num_attention_heads", (0.5,)),
    ):
        for share in shares:
            size = round(source.sizes[axis] * share)
            yield axis, f"{source.sizes[axis]} to {size}", source.resized(**{axis: size})


class Bench:
    """The teacher, its held-out text, and the measure."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.checkpoint = open_checkpoint(Path(recipe.teacher))
        self.tokenizer = load_tokenizer(self.checkpoint.folder)
        self.teacher = load_model(self.checkpoint.folder)
        section = recipe.evaluate
        self.heldout_NT = blend_sources(
            text_sources(section.data, held_out=True),
            self.tokenizer,
            seq_len=section.seq_len,
            num_sequences=section.sequences,
            seed=0,
        )

    def scores(self, settings: CalibrationSettings, seed: int) -> Scores:
        """Scores of the teacher on the recipe's calibration text."""
        section = self.recipe.score
        samples = blend_samples(
            text_sources(section.data),
            self.tokenizer,
            seq_len=section.seq_len,
            num_samples=section.samples,
            seed=seed,
            packed=True,
        )
        return calibrate(MemoryStack(self.teacher, self.checkpoint.shape), samples, settings)

    def kl(self, scores: Scores, target: HybridShape, layers: tuple[int, ...]) -> float:
        """Zero-shot KL of the teacher cut to a shape."""
        source = self.checkpoint.shape
        plan = PrunePlan(source=source, target=target, keep=select_units(scores, source, target, layers))
        with tempfile.TemporaryDirectory() as folder:
            pruned = load_model(prune_checkpoint(self.checkpoint, plan, Path(folder) / "pruned").folder)
        found = evaluate_text(pruned, self.heldout_NT, teacher=self.teacher, batch_size=32).kl_to_teacher
        assert found is not None
        return found


def width_rows(bench: Bench, seeds: list[int]) -> list[dict[str, Any]]:
    """One row a cut: score -> its KL for each seed."""
    source = bench.checkpoint.shape
    scores = {
        name: [bench.scores(CalibrationSettings(width=width), seed) for seed in seeds] for name, width in WIDTH.items()
    }
    scores["random"] = [random_scores(source, seed=seed) for seed in seeds]
    rows = []
    for axis, label, target in cuts(source):
        layers = tuple(range(source.num_hidden_layers))
        found = {name: [bench.kl(one, target, layers) for one in each] for name, each in scores.items()}
        rows.append({"axis": axis, "cut": label, "kl": found})
        print(axis, label, {name: round(statistics.median(kl), 4) for name, kl in found.items()}, flush=True)
    return rows


def depth_rows(bench: Bench, seeds: list[int]) -> list[dict[str, Any]]:
    """One row a number of blocks: score -> its KL for each seed."""
    source = bench.checkpoint.shape
    scores = {
        name: [
            bench.scores(CalibrationSettings(width=WidthSettings.uniform(None), depth=depth), seed) for seed in seeds
        ]
        for name, depth in DEPTH.items()
    }
    scores["random"] = [random_scores(source, seed=seed) for seed in seeds]
    total = source.num_hidden_layers
    rows = []
    for kept in (total - 1, total - 2, total - 3):
        found: dict[str, list[float]] = {}
        for name, each in scores.items():
            found[name] = []
            for one in each:
                layers = top_blocks(one.depth, source.hybrid_override_pattern, kept, quotas=BlockQuotas())
                found[name].append(bench.kl(one, source.resized(layers=layers), layers))
        rows.append({"axis": "num_hidden_layers", "cut": f"{total} to {kept}", "kl": found})
        print(kept, "blocks", {name: round(statistics.median(kl), 4) for name, kl in found.items()}, flush=True)
    return rows


def show(rows: list[dict[str, Any]], title: str) -> Table:
    """Median over seeds, the range below it, the best in bold."""
    table = Table(title=title, title_justify="left")
    names = list(rows[0]["kl"])
    for column in ("axis", "cut", *names):
        table.add_column(column)
    for row in rows:
        medians = {name: statistics.median(row["kl"][name]) for name in names}
        best = min(medians.values())
        cells = []
        for name in names:
            style = "[bold]" if medians[name] == best else ""
            cells.append(f"{style}{medians[name]:.4f}\n({min(row['kl'][name]):.4f} to {max(row['kl'][name]):.4f})")
        table.add_row(row["axis"], row["cut"], *cells)
    return table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    bench = Bench(load_recipe(args.recipe))
    width, depth = width_rows(bench, args.seeds), depth_rows(bench, args.seeds)
    console = Console(width=150)
    console.print(show(width, "Zero-shot KL to the teacher, nats a token, by width score"))
    console.print(show(depth, "Zero-shot KL to the teacher, nats a token, by depth score"))
    if args.json:
        args.json.write_text(json.dumps(width + depth, indent=2))


if __name__ == "__main__":
    main()
