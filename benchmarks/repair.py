"""Repair against plain slicing, zero-shot over shapes and after distillation at equal tokens.

    python benchmarks/repair.py examples/quickstart/widths.yaml --seeds 0 1 2 [--distill]

The teacher is scored as the recipe says. Each shape is cut once; the same checkpoint is measured, repaired in place
(the recipe's `prune.repair`, or its defaults) on the recipe's calibration text and measured again, both on the
recipe's held-out text. With --distill the first shape's two checkpoints are distilled in turn from the same teacher on
the same tokens in the same order. Then the repaired one is distilled on three quarters and on half of the tokens, each
with a schedule of its own, for as long as its held-out KL stays at or below the plain arm's on all of them: the tokens
saved are those of the shortest such run.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from arms import distill_and_measure, held_out_ids, kl_of, percent
from rich.console import Console
from rich.table import Table

from minitron.checkpoints.checkpoint import PLAN_FILE, open_checkpoint
from minitron.evaluate.perplexity import evaluate_text
from minitron.importance.scores import Scores
from minitron.pipeline.blocks import kept_blocks
from minitron.pipeline.context import Execution
from minitron.pipeline.pruning import Cut, prune_to
from minitron.pipeline.recovery import compose_plans
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, RunFolder
from minitron.pipeline.scoring import score_folder
from minitron.pipeline.sections import prune_section
from minitron.recipe.load import load_recipe
from minitron.recipe.prune import PruneSection, RepairSection
from minitron.recipe.recipe import Recipe
from minitron.runtime.loading import load_model

# The quickstart's search space: hidden size, FFN width, Mamba heads, blocks. The first one is the recipe's choice.
SHAPES = (
    (128, 320, 12, 12),
    (160, 320, 8, 12),
    (144, 320, 10, 12),
    (160, 448, 12, 12),
    (144, 640, 12, 12),
    (160, 640, 12, 10),
    (144, 448, 12, 10),
)
ARMS = ("plain", "repaired")
SHARES = (1.0, 0.75, 0.5)  # of the recipe's tokens


def cut(recipe: Recipe, scores: Scores, sizes: tuple[int, ...], folder: Path) -> dict[str, Path]:
    """The plain and the repaired checkpoint of a shape."""
    source = open_checkpoint(Path(recipe.teacher))
    hidden, ffn, heads, blocks = sizes
    layers = kept_blocks(recipe, source.shape, scores.depth, blocks)
    target = source.shape.resized(layers=layers, hidden_size=hidden, intermediate_size=ffn, mamba_num_heads=heads)
    wanted = Cut(source=source, scores=scores, target=target, layers=layers)
    execution = Execution(device=recipe.device, seed=recipe.seed)
    folders = {arm: folder / arm / CHECKPOINT_FOLDER for arm in ARMS}
    for arm, output in folders.items():
        section = prune_section(recipe) if arm == "repaired" else PruneSection()
        prune_to(wanted, output, section=section, execution=execution)
    return folders


def zero_shot(recipe: Recipe, scores: Scores, shapes: list[tuple[int, ...]], folder: Path) -> list[dict[str, Any]]:
    """KL to the teacher on held-out text of every shape, plain and repaired."""
    teacher = load_model(Path(recipe.teacher), device=recipe.device)
    held_out_NT = held_out_ids(recipe)
    rows = []
    for sizes in shapes:
        row: dict[str, Any] = {"shape": sizes}
        for arm, checkpoint in cut(recipe, scores, sizes, folder / "-".join(map(str, sizes))).items():
            student = load_model(checkpoint, device=recipe.device)
            row[arm] = evaluate_text(student, held_out_NT, teacher=teacher).kl_to_teacher
        row["ratio"] = row["plain"] / row["repaired"]
        print(f"seed {recipe.seed}: {row}", flush=True)
        rows.append(row)
    return rows


def distilled(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Held-out metrics after distillation of both arms, and the share of the tokens that repair saved."""
    found: dict[str, Any] = {"plain": distill_arm(recipe, folder, "plain", 1.0), "tokens_saved": None}
    for share in SHARES:
        arm = distill_arm(recipe, folder, "repaired", share)
        found[f"repaired {share:.0%}"] = arm
        if arm["kl_to_teacher"] > found["plain"]["kl_to_teacher"]:
            break
        found["tokens_saved"] = 1 - share
    return found


def distill_arm(recipe: Recipe, folder: Path, arm: str, share: float) -> dict[str, Any]:
    """Distills one arm on a share of the recipe's tokens and measures it."""
    shorter = shortened(recipe, share)
    template = open_checkpoint(folder / arm / CHECKPOINT_FOLDER)
    student = load_model(template.folder, device=recipe.device)
    kept = compose_plans([template.folder.with_name(PLAN_FILE)])
    run, output = RunFolder(folder), folder / f"{arm}-{share:g}"
    metrics, record = distill_and_measure(shorter, run, student, template, output, kept)
    kl = kl_of(metrics)
    print(f"seed {recipe.seed}: {arm}, {record.tokens:,} tokens: KL {kl:.4f} in {record.seconds:.0f} s", flush=True)
    shown = {"kl_to_teacher": kl, "loss": metrics.loss, "exact_match": metrics.exact_match}
    return shown | {"curve": record.curve, "tokens": record.tokens}


def shortened(recipe: Recipe, share: float) -> Recipe:
    """The recipe with a share of the tokens in every phase; its teacher is online and as it is."""
    section = recipe.distill
    changes: dict[str, Any] = {
        "tokens": None if section.tokens is None else int(section.tokens * share),
        "phases": tuple(phase.model_copy(update={"tokens": int(phase.tokens * share)}) for phase in section.phases),
        "teacher": section.teacher.model_copy(update={"mode": "online", "layerwise": False}),
    }
    return recipe.model_copy(update={"distill": section.model_copy(update=changes), "correct_teacher": None})


def results_tables(results: dict[int, dict[str, Any]]) -> list[Table]:
    """Zero-shot: a row a shape, medians over seeds; after distillation: a row a seed."""
    first = Table(title="Zero-shot KL to the teacher, held-out text, medians over seeds", title_justify="left")
    for column in ("hidden", "FFN", "Mamba heads", "blocks", "plain", "repaired", "ratio", "least ratio"):
        first.add_column(column, justify="right")
    for rows in zip(*(found["zero_shot"] for found in results.values()), strict=True):
        plain, repaired, ratio = (statistics.median(row[key] for row in rows) for key in ("plain", "repaired", "ratio"))
        least = min(row["ratio"] for row in rows)
        sizes = map(str, rows[0]["shape"])
        first.add_row(*sizes, f"{plain:.4f}", f"{repaired:.4f}", f"{ratio:.2f}x", f"{least:.2f}x")
    tables = [first]
    if all("distilled" in found for found in results.values()):
        second = Table(title="After distillation", title_justify="left")
        for column in ("seed", "arm", "tokens", "held-out KL", "loss", "exact match"):
            second.add_column(column, justify="left" if column == "arm" else "right")
        for seed, found in results.items():
            arms = {name: arm for name, arm in found["distilled"].items() if isinstance(arm, dict)}
            for name, arm in arms.items():
                numbers = (f"{arm['kl_to_teacher']:.4f}", f"{arm['loss']:.4f}", percent(arm["exact_match"]))
                second.add_row(str(seed), name, f"{arm['tokens']:,}", *numbers)
            saved = found["distilled"]["tokens_saved"]
            note = "not as good at equal tokens" if saved is None else f"at least {saved:.0%} of the tokens saved"
            second.add_row(str(seed), note, end_section=True)
        tables.append(second)
    return tables


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shapes", nargs="+", metavar="HIDDEN,FFN,HEADS,BLOCKS", help="in place of the quickstart's")
    parser.add_argument("--distill", action="store_true", help="also distill the first shape's two arms")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    shapes: list[tuple[int, ...]] = list(SHAPES)
    if args.shapes:
        shapes = [tuple(map(int, shape.split(","))) for shape in args.shapes]
    results: dict[int, dict[str, Any]] = {}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            recipe = load_recipe(args.recipe, (*args.set, f"seed={seed}"))
            if recipe.prune.repair is None:
                recipe = recipe.model_copy(update={"prune": PruneSection(repair=RepairSection())})
            (folder / "score").mkdir()
            teacher = Path(recipe.teacher)
            scores = score_folder(teacher, recipe.score, folder / "score", seed=seed, device=recipe.device)
            results[seed] = {"zero_shot": zero_shot(recipe, scores, shapes, folder)}
            if args.distill:
                results[seed]["distilled"] = distilled(recipe, folder / "-".join(map(str, shapes[0])))
    for table in results_tables(results):
        Console(width=120).print(table)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
