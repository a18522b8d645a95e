"""Repair against plain slicing, zero-shot over shapes and after distillation at equal tokens.

    python benchmarks/repair.py examples/quickstart/recipe.yaml --seeds 0 1 2 [--distill]

The teacher is scored as the recipe says. Each shape is cut once; the same checkpoint is measured, repaired in place
(the recipe's `prune.repair`, or its defaults) on the recipe's calibration text and measured again, both on the
recipe's held-out text. With --distill the first shape's two checkpoints are distilled in turn from the same teacher on
the same tokens in the same order. "Tokens saved" is read off the training curves, whose points are means over a
fortieth of the run: the share of tokens that is left when the repaired arm's curve first comes to the plain arm's last
point or below and stays there.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from minitron import stages
from minitron.evaluate import evaluate_text
from minitron.hybrid.blocks import blend_sources
from minitron.hybrid.checkpoint import open_checkpoint
from minitron.hybrid.model import load_model, load_tokenizer
from minitron.importance import BlockQuotas, Scores, top_blocks
from minitron.recipe import PruneSection, Recipe, RepairSection, load_recipe

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


def cut(recipe: Recipe, scores: Scores, sizes: tuple[int, ...], folder: Path) -> dict[str, Path]:
    """The plain and the repaired checkpoint of a shape."""
    source = open_checkpoint(Path(recipe.teacher))
    hidden, ffn, heads, blocks = sizes
    quotas = BlockQuotas(at_least={"*": recipe.search.keep_attention})
    layers = top_blocks(scores.depth, source.shape.hybrid_override_pattern, blocks, quotas=quotas)
    target = source.shape.resized(layers=layers, hidden_size=hidden, intermediate_size=ffn, mamba_num_heads=heads)
    folders = {arm: folder / arm / stages.CHECKPOINT_FOLDER for arm in ARMS}
    for arm, output in folders.items():
        section = stages.repair_section(recipe) if arm == "repaired" else None
        stages.prune_to(source, scores, target, layers, output, repair=section, seed=recipe.seed, device=recipe.device)
    return folders


def zero_shot(recipe: Recipe, scores: Scores, shapes: list[tuple[int, ...]], folder: Path) -> list[dict[str, Any]]:
    """KL to the teacher on held-out text of every shape, plain and repaired."""
    section, teacher = recipe.evaluate, load_model(Path(recipe.teacher), device=recipe.device)
    held_out_NT = blend_sources(
        stages.text_sources(section.data),
        load_tokenizer(Path(recipe.teacher)),
        seq_len=section.seq_len,
        num_blocks=section.blocks,
        seed=recipe.seed,
    )
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
    """Held-out metrics after distillation of both arms, and the tokens that repair saved."""
    found: dict[str, Any] = {}
    for arm in ARMS:
        template = open_checkpoint(folder / arm / stages.CHECKPOINT_FOLDER)
        output = folder / f"{arm}-distilled"
        output.mkdir()
        record = stages.recover(recipe, load_model(template.folder, device=recipe.device), template, output)
        metrics = stages.evaluate_folder(
            output / stages.CHECKPOINT_FOLDER,
            recipe.evaluate,
            recipe.budget.workload,
            teacher=load_model(Path(recipe.teacher), device=recipe.device),
            seed=recipe.seed,
            device=recipe.device,
        )
        found[arm] = {key: metrics.get(key) for key in ("kl_to_teacher", "loss", "exact_match")}
        found[arm] |= {"curve": record.curve, "tokens": record.tokens}
        print(f"seed {recipe.seed}: {arm} {metrics['kl_to_teacher']:.4f} in {record.seconds:.0f} s", flush=True)
    found["tokens_saved"] = tokens_saved(found["plain"]["curve"], found["repaired"]["curve"], found["plain"]["tokens"])
    return found


def tokens_saved(plain: Any, repaired: Any, tokens: int) -> float:
    """Share of the tokens left when the repaired curve comes to the plain one's end and stays; 0 if it never does."""
    goal, reached = plain[-1][1], tokens
    for at, loss in reversed(repaired):
        if loss > goal:
            break
        reached = at
    return 1 - reached / tokens


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
        second = Table(title="After distillation at equal tokens", title_justify="left")
        for column in ("seed", "KL plain", "KL repaired", "ratio", "exact plain", "exact repaired", "tokens saved"):
            second.add_column(column, justify="right")
        for seed, found in results.items():
            plain, repaired = found["distilled"]["plain"], found["distilled"]["repaired"]
            kl, exact = (
                [arm["kl_to_teacher"] for arm in (plain, repaired)],
                [plain["exact_match"], repaired["exact_match"]],
            )
            second.add_row(
                str(seed),
                *(f"{value:.4f}" for value in kl),
                f"{kl[0] / kl[1]:.2f}x",
                *("-" if value is None else f"{value:.1%}" for value in exact),
                f"{found['distilled']['tokens_saved']:.0%}",
            )
        tables.append(second)
    return tables


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shapes", nargs="+", metavar="HIDDEN,FFN,HEADS,BLOCKS", help="in place of the quickstart's")
    parser.add_argument("--distill", action="store_true", help="also distil the first shape's two arms")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    shapes = [tuple(map(int, shape.split(","))) for shape in args.shapes] if args.shapes else list(SHAPES)
    results: dict[int, dict[str, Any]] = {}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            recipe = load_recipe(args.recipe, (*args.set, f"seed={seed}"))
            if recipe.prune.repair is None:
                recipe = recipe.model_copy(update={"prune": PruneSection(repair=RepairSection())})
            (folder / "score").mkdir()
            teacher = Path(recipe.teacher)
            scores = stages.score_folder(teacher, recipe.score, folder / "score", seed=seed, device=recipe.device)
            results[seed] = {"zero_shot": zero_shot(recipe, scores, shapes, folder)}
            if args.distill:
                results[seed]["distilled"] = distilled(recipe, folder / "-".join(map(str, shapes[0])))
    for table in results_tables(results):
        Console(width=120).print(table)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
