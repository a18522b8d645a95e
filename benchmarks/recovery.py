"""Recovery at equal tokens: our cut against a random cut and against the same shape from scratch.

    python benchmarks/recovery.py examples/quickstart/widths.yaml --seeds 0 1 2

For each seed the whole recipe is run; then a student of exactly the same shape is cut at random (random units, within
groups), and another is initialized afresh. All three are distilled from the same teacher on the same tokens in the
same order with the same settings, and measured on the same held-out text and problems. The student from scratch gets
the teacher's logits too, which makes it a stronger baseline than training on text alone.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from arms import distill_and_measure, kl_of, percent
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig

from minitron.artifacts.json_files import JsonObject
from minitron.checkpoints.checkpoint import PLAN_FILE, Checkpoint, open_checkpoint
from minitron.evaluate.metrics import Metrics
from minitron.importance.scores import random_scores
from minitron.models.shape import HybridShape
from minitron.pipeline.blocks import kept_blocks
from minitron.pipeline.pruning import Cut, prune_to
from minitron.pipeline.recovery import compose_plans
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, RunFolder
from minitron.pipeline.runner import run_pipeline
from minitron.pipeline.sections import cut_source
from minitron.recipe.load import load_recipe
from minitron.recipe.recipe import Recipe
from minitron.runtime.building import new_model
from minitron.runtime.loading import load_model

ARMS = ("minitron", "random cut", "from scratch")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedResult:
    """Metrics of one seed.

    Attributes:
        teacher: The teacher.
        before: Our cut before distillation.
        arms: Arm -> its student.
    """

    teacher: Metrics
    before: Metrics
    arms: dict[str, Metrics]

    def to_json(self) -> JsonObject:
        """As JSON: our arm carries what it is compared with."""
        found: JsonObject = {}
        for arm, metrics in self.arms.items():
            beside = {"before": self.before.to_json(), "teacher": self.teacher.to_json()} if arm == "minitron" else {}
            found[arm] = {**metrics.to_json(), **beside}
        return found


def run_seed(recipe: Recipe, folder: Path, arms: list[str]) -> SeedResult:
    """Metrics of every arm for one seed."""
    for outcome in run_pipeline(recipe, folder, last="evaluate"):
        print(f"seed {recipe.seed}: {outcome.name} {outcome.seconds:.0f} s", flush=True)
    run = RunFolder(folder)
    metrics, pruned = run.read_metrics(), open_checkpoint(run.pruned)
    found = {"minitron": metrics["distilled"]}
    _show(recipe, "minitron", found["minitron"])
    if "random cut" in arms:
        cut = cut_at_random(recipe, run, pruned.shape)
        # A depth stage's plan is not composed with it: both start from the checkpoint that widths are cut from.
        kept = compose_plans([cut.folder.with_name(PLAN_FILE)]) if recipe.depth_first is None else None
        output, student = folder / "random-distilled", load_model(cut.folder, device=recipe.device)
        found["random cut"], _ = distill_and_measure(recipe, run, student, cut, output, kept)
        _show(recipe, "random cut", found["random cut"])
    if "from scratch" in arms:
        fresh = new_model(AutoConfig.from_pretrained(pruned.folder), seed=recipe.seed).to(recipe.device)
        found["from scratch"], _ = distill_and_measure(recipe, run, fresh, pruned, folder / "scratch-distilled", None)
        _show(recipe, "from scratch", found["from scratch"])
    return SeedResult(teacher=metrics["teacher"], before=metrics["pruned"], arms=found)


def cut_at_random(recipe: Recipe, run: RunFolder, shape: HybridShape) -> Checkpoint:
    """The checkpoint that the recipe cuts, cut to a shape by random scores, as many blocks under the same quota."""
    source = open_checkpoint(cut_source(recipe, run))
    depth_L = random_scores(source.shape, seed=recipe.seed + 1000).depth
    layers = kept_blocks(recipe, source.shape, depth_L, shape.num_hidden_layers)
    target = source.shape.resized(layers=layers, **{axis: shape.sizes[axis] for axis in shape.family.axes})
    scores = random_scores(source.shape, seed=recipe.seed)
    cut = Cut(source=source, scores=scores, target=target, layers=layers)
    return prune_to(cut, run.path / "random" / CHECKPOINT_FOLDER)


def results_table(results: dict[int, SeedResult]) -> Table:
    """One row a seed and arm, and a median row an arm; a recipe without a task has no exact match."""
    table = Table(title="Recovery at equal tokens", title_justify="left")
    for column in ("seed", "arm", "parameters", "KL before", "KL after", "ratio", "held-out loss", "exact match"):
        table.add_column(column, justify="right")
    for seed, found in results.items():
        for arm, metrics in found.arms.items():
            before = kl_of(found.before) if arm == "minitron" else None
            table.add_row(
                str(seed),
                arm,
                f"{metrics.params:,}",
                "-" if before is None else f"{before:.4f}",
                f"{kl_of(metrics):.4f}",
                "-" if before is None else f"{before / kl_of(metrics):.1f}x",
                f"{metrics.loss:.4f}",
                percent(metrics.exact_match),
            )
        teacher = found.teacher
        numbers = ("-", "-", "-", f"{teacher.loss:.4f}", percent(teacher.exact_match))
        table.add_row(str(seed), "teacher", f"{teacher.params:,}", *numbers, end_section=True)
    for arm in next(iter(results.values())).arms:
        each = [found.arms[arm] for found in results.values()]
        exact = [metrics.exact_match for metrics in each if metrics.exact_match is not None]
        table.add_row(
            "median",
            arm,
            "",
            "",
            f"{statistics.median(map(kl_of, each)):.4f}",
            "",
            f"{statistics.median(metrics.loss for metrics in each):.4f}",
            percent(statistics.median(exact) if exact else None),
            style="bold",
        )
    return table


def _show(recipe: Recipe, arm: str, metrics: Metrics) -> None:
    numbers = f"KL {kl_of(metrics):.4f}, loss {metrics.loss:.4f}, exact match {percent(metrics.exact_match)}"
    print(f"seed {recipe.seed}: {arm}: {numbers}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="minitron is always run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    results = {}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            recipe = load_recipe(args.recipe, (*args.set, f"seed={seed}"))
            results[seed] = run_seed(recipe, Path(folder), args.arms)
    Console(width=120).print(results_table(results))
    if args.json:
        args.json.write_text(json.dumps({seed: found.to_json() for seed, found in results.items()}, indent=2))


if __name__ == "__main__":
    main()
