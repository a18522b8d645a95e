"""Recovery at equal tokens: our cut against a random cut and against the same shape from scratch.

    python benchmarks/recovery.py examples/quickstart/recipe.yaml --seeds 0 1 2

For each seed the whole recipe is run; then a student of exactly the same shape is cut at random (random units, within
groups), and another is initialized afresh. All three are distilled from the same teacher on the same tokens in the
same order with the same settings, and measured on the same held-out text and problems. The student from scratch gets
the teacher's logits too, which makes it a stronger baseline than training on text alone.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import AutoConfig

from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.importance.scores import random_scores
from minitron.importance.selection import top_blocks
from minitron.models.quotas import BlockQuotas
from minitron.models.shape import HybridShape
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, read_metrics
from minitron.pipeline.runner import run_pipeline
from minitron.pipeline.stages.distill import recover
from minitron.pipeline.stages.evaluate import evaluate_folder
from minitron.pipeline.stages.prune import prune_to
from minitron.recipe.load import load_recipe
from minitron.recipe.recipe import Recipe
from minitron.runtime.loading import load_model, new_model

ARMS = ("minitron", "random cut", "from scratch")


def run_seed(recipe: Recipe, folder: Path, arms: list[str]) -> dict[str, dict[str, Any]]:
    """Metrics of every arm for one seed; those of our cut carry its state before distillation under `before`."""
    for outcome in run_pipeline(recipe, folder, last="evaluate"):
        print(f"seed {recipe.seed}: {outcome.name} {outcome.seconds:.0f} s", flush=True)
    metrics = read_metrics(folder / "evaluate")
    print({name: (round(m["kl_to_teacher"], 4), m["exact_match"]) for name, m in metrics.items()}, flush=True)
    results = {"minitron": metrics["distilled"] | {"before": metrics["pruned"], "teacher": metrics["teacher"]}}
    source = open_checkpoint(Path(recipe.teacher))
    pruned = open_checkpoint(folder / "prune" / CHECKPOINT_FOLDER)

    if "random cut" in arms:
        cut = cut_at_random(recipe, source, pruned.shape, folder / "random")
        results["random cut"] = distill_and_measure(recipe, cut, load_model(cut), folder / "random-distilled")
    if "from scratch" in arms:
        fresh = new_model(AutoConfig.from_pretrained(pruned.folder), seed=recipe.seed)
        results["from scratch"] = distill_and_measure(recipe, pruned.folder, fresh, folder / "scratch-distilled")
    return results


def cut_at_random(recipe: Recipe, source: Checkpoint, shape: HybridShape, output: Path) -> Path:
    """The teacher cut to a shape by random scores, written as a checkpoint."""
    layers = random_layers(source.shape, shape, recipe)
    target = source.shape.resized(layers=layers, **{axis: shape.sizes[axis] for axis in shape.family.axes})
    scores = random_scores(source.shape, seed=recipe.seed)
    return prune_to(source, scores, target, layers, output / CHECKPOINT_FOLDER).folder


def random_layers(source: HybridShape, target: HybridShape, recipe: Recipe) -> tuple[int, ...]:
    """As many blocks as the target has, chosen at random under the same quota."""
    depth_L = random_scores(source, seed=recipe.seed + 1000).depth
    return top_blocks(
        depth_L,
        source.hybrid_override_pattern,
        target.num_hidden_layers,
        quotas=BlockQuotas(at_least={"*": recipe.search.keep_attention}),
    )


def distill_and_measure(recipe: Recipe, template: Path, student: Any, output: Path) -> dict[str, Any]:
    """Distills a student as the recipe says and measures it."""
    output.mkdir(parents=True)
    recover(recipe, student, open_checkpoint(template), output)
    metrics = evaluate_folder(
        output / CHECKPOINT_FOLDER,
        recipe.evaluate,
        recipe.budget.workload,
        teacher=load_model(Path(recipe.teacher), device=recipe.device),
        seed=recipe.seed,
        device=recipe.device,
    )
    shown = {key: round(metrics[key], 4) for key in ("kl_to_teacher", "loss", "exact_match")}
    print(f"seed {recipe.seed}: {output.name} {shown}", flush=True)
    return metrics


def results_table(results: dict[int, dict[str, dict[str, Any]]]) -> Table:
    """One row a seed and arm, and a median row an arm."""
    table = Table(title="Recovery at equal tokens", title_justify="left")
    for column in ("seed", "arm", "parameters", "KL before", "KL after", "ratio", "held-out loss", "exact match"):
        table.add_column(column, justify="right")
    for seed, arms in results.items():
        for arm, found in arms.items():
            before = found.get("before", {}).get("kl_to_teacher")
            table.add_row(
                str(seed),
                arm,
                f"{found['params']:,}",
                "-" if before is None else f"{before:.4f}",
                f"{found['kl_to_teacher']:.4f}",
                "-" if before is None else f"{before / found['kl_to_teacher']:.1f}x",
                f"{found['loss']:.4f}",
                f"{found['exact_match']:.1%}",
            )
        teacher = arms["minitron"]["teacher"]
        table.add_row(
            str(seed),
            "teacher",
            f"{teacher['params']:,}",
            "-",
            "-",
            "-",
            f"{teacher['loss']:.4f}",
            f"{teacher['exact_match']:.1%}",
            end_section=True,
        )
    for arm in next(iter(results.values())):
        median = {
            key: statistics.median(arms[arm][key] for arms in results.values())
            for key in ("kl_to_teacher", "loss", "exact_match")
        }
        table.add_row(
            "median",
            arm,
            "",
            "",
            f"{median['kl_to_teacher']:.4f}",
            "",
            f"{median['loss']:.4f}",
            f"{median['exact_match']:.1%}",
            style="bold",
        )
    return table


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
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
