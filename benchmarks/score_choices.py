"""Which score to trust: zero-shot KL to the teacher after cutting one axis at a time, by every score.

    python benchmarks/score_choices.py examples/quickstart/widths.yaml

For each seed (of the calibration text) and each cut, the teacher is cut by every score, and its KL to the teacher on
the recipe's held-out text is measured right away, without distillation. Lower is better. The order of scores after a
short distillation may differ; see `benchmarks/recovery.py` for a whole run. `--fast` rounds the inputs of matrix
products to bf16 for teacher and student alike, on CPUs that have such products in hardware.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.samples import blend_samples
from minitron.data.sequences import blend_sources
from minitron.importance.calibrate import calibrate
from minitron.importance.scores import Scores, random_scores
from minitron.importance.selection import select_units, top_blocks
from minitron.importance.settings import CalibrationSettings, DepthSettings, WidthSettings
from minitron.models.quotas import BlockQuotas
from minitron.models.shape import HybridShape
from minitron.pipeline.text import text_sources
from minitron.prune.in_memory import prune_model
from minitron.prune.laws.random_keep import smaller_sizes
from minitron.prune.plan import PrunePlan
from minitron.recipe.load import load_recipe
from minitron.recipe.recipe import Recipe
from minitron.runtime.backbone import last_hidden_states
from minitron.runtime.loading import load_model, load_tokenizer
from minitron.runtime.stack import MemoryStack

WIDTH = {
    "published": WidthSettings.uniform("activation"),
    "FLAP": WidthSettings.uniform("flap"),
    "output energy": WidthSettings.uniform("output_energy"),
}
DEPTH = ("block influence", "logit MSE, one sweep", "logit KLD, one sweep", "logit MSE, greedy", "logit KLD, greedy")
SHARES = {
    "hidden_size": (0.9, 0.8, 0.6),
    "intermediate_size": (0.75, 0.5, 0.25),
    "mamba_num_heads": (5 / 6, 2 / 3, 1 / 2),
    "mamba_head_dim": (0.75, 0.5, 0.25),
    "num_attention_heads": (0.5,),
}
# Sequences of which log-probabilities are formed at once.
BATCH = 4


def depth_settings(name: str, remove: int, samples: int) -> DepthSettings:
    """Settings of a depth score by its name here, the greedy ones down to the deepest cut."""
    if name == "block influence":
        return DepthSettings()
    scorer = "logit_mse" if "MSE" in name else "logit_kld"
    return DepthSettings(scorer=scorer, remove=remove if "greedy" in name else 0, samples=samples)


def cuts(source: HybridShape, most: int) -> Iterator[tuple[str, str, HybridShape]]:
    """(axis, label, target): the mildest cuts of each width axis, to the nearest sizes that the family allows."""
    for axis, shares in SHARES.items():
        if not source.sizes.get(axis):
            continue
        possible = smaller_sizes(source, source.family.axes[axis])[::-1]  # of two as near, the larger
        for share in shares[:most]:
            wanted = source.sizes[axis] * share
            size = min(possible, key=lambda each: abs(each - wanted))
            yield axis, f"{source.sizes[axis]} to {size}", source.resized(**{axis: size})


class Bench:
    """The teacher, its held-out text and its log-probabilities there, and the measure."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.checkpoint = open_checkpoint(Path(recipe.teacher))
        self.tokenizer = load_tokenizer(self.checkpoint.folder)
        self.teacher = load_model(self.checkpoint.folder)
        section = recipe.evaluate
        heldout_NT = blend_sources(
            text_sources(section.data, held_out=True),
            self.tokenizer,
            seq_len=section.seq_len,
            num_sequences=section.sequences,
            seed=0,
        )
        self.batches = torch.from_numpy(heldout_NT[:]).long().split(BATCH)
        self.teacher_log_probs = [log_probs(self.teacher, ids_BT) for ids_BT in self.batches]

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
        pruned = prune_model(self.teacher, plan)
        nats, tokens = 0.0, 0
        for ids_BT, log_p_NV in zip(self.batches, self.teacher_log_probs, strict=True):
            nats += F.kl_div(log_probs(pruned, ids_BT), log_p_NV, log_target=True, reduction="sum").item()
            tokens += len(log_p_NV)
        return nats / tokens


@torch.no_grad()
def log_probs(model: PreTrainedModel, ids_BT: torch.Tensor) -> torch.Tensor:
    """[B * (T - 1), V] log-probabilities of what follows each token but the last."""
    hidden_ND = last_hidden_states(model, ids_BT)[:, :-1].flatten(0, 1)
    return torch.log_softmax(model.get_output_embeddings()(hidden_ND).float(), dim=-1)


def width_rows(bench: Bench, seeds: list[int], most: int) -> list[dict[str, Any]]:
    """One row a cut: score -> its KL for each seed."""
    source = bench.checkpoint.shape
    scores = {
        name: [bench.scores(CalibrationSettings(width=width), seed) for seed in seeds] for name, width in WIDTH.items()
    }
    scores["random"] = [random_scores(source, seed=seed) for seed in seeds]
    rows = []
    for axis, label, target in cuts(source, most):
        layers = tuple(range(source.num_hidden_layers))
        found = {name: [bench.kl(one, target, layers) for one in each] for name, each in scores.items()}
        rows.append({"axis": axis, "cut": label, "kl": found})
        print(axis, label, {name: round(statistics.median(kl), 4) for name, kl in found.items()}, flush=True)
    return rows


def depth_rows(
    bench: Bench, seeds: list[int], names: list[str], removed: list[int], samples: int
) -> list[dict[str, Any]]:
    """One row a number of blocks: score -> its KL for each seed."""
    source = bench.checkpoint.shape
    scores = {}
    for name in names:
        depth = depth_settings(name, max(removed), samples)
        settings = CalibrationSettings(width=WidthSettings.uniform(None), depth=depth)
        scores[name] = [bench.scores(settings, seed) for seed in seeds]
    scores["random"] = [random_scores(source, seed=seed) for seed in seeds]
    total = source.num_hidden_layers
    rows = []
    for kept in (total - each for each in removed):
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
    parser.add_argument("--cuts", type=int, default=3, help="of each width axis, the mildest first")
    parser.add_argument("--depth", nargs="+", choices=DEPTH, default=list(DEPTH), help="scores of blocks")
    parser.add_argument("--remove", type=int, nargs="+", default=[1, 2, 3], help="numbers of blocks that go")
    parser.add_argument("--depth-samples", type=int, default=64, help="samples for scores by logits")
    parser.add_argument("--fast", action="store_true", help="round inputs of matrix products to bf16")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    if args.fast:
        torch.set_float32_matmul_precision("medium")
    bench = Bench(load_recipe(args.recipe, tuple(args.set)))
    width = width_rows(bench, args.seeds, args.cuts)
    depth = depth_rows(bench, args.seeds, args.depth, args.remove, args.depth_samples)
    console = Console(width=150)
    console.print(show(width, "Zero-shot KL to the teacher, nats a token, by width score"))
    console.print(show(depth, "Zero-shot KL to the teacher, nats a token, by depth score"))
    if args.json:
        args.json.write_text(json.dumps(width + depth, indent=2))


if __name__ == "__main__":
    main()
