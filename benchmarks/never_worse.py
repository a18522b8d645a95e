"""Whether a distillation ever ends worse than it starts: shapes x rates, repaired and not.

    python benchmarks/never_worse.py examples/quickstart/recipe.yaml --seeds 0 --tokens 24576

The teacher is scored as the recipe says. Each shape is cut, repaired (the recipe's `prune.repair`, or its defaults) and
left as it is, and each student is distilled with every rate, `auto` among them, on the same few tokens. What is said:
held-out KL to the teacher (the recipe's evaluation text) of the start, of the last state (from the training's own
measurements) and of what was kept, and in how many of the runs what was kept is worse than the start, on validation
text, which the choice is made by, and on evaluation text, which it is not.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from arms import distill_and_measure, held_out_ids, kl_of
from repair import SHAPES, cut
from rich.console import Console
from rich.table import Table

from minitron.checkpoints.checkpoint import PLAN_FILE, open_checkpoint
from minitron.evaluate.perplexity import evaluate_text
from minitron.pipeline.recovery import compose_plans
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.scoring import score_folder
from minitron.recipe.load import load_recipe
from minitron.recipe.prune import PruneSection, RepairSection
from minitron.recipe.recipe import Recipe
from minitron.runtime.loading import load_model

RATES = ("auto", "0.0001", "0.0005", "0.002", "0.01", "0.1")
TEXTS = ("validation", "evaluation")


def run_student(recipe: Recipe, checkpoint: Path, folder: Path, start: float, rate: str) -> dict[str, Any]:
    """One student distilled with one rate."""
    section = recipe.distill.model_copy(update={"learning_rate": rate if rate == "auto" else float(rate)})
    template = open_checkpoint(checkpoint)
    student = load_model(checkpoint, device=recipe.device)
    kept = compose_plans([checkpoint.with_name(PLAN_FILE)])
    run = recipe.model_copy(update={"distill": section})
    metrics, record = distill_and_measure(run, RunFolder(folder), student, template, folder / f"rate-{rate}", kept)
    watched = record.validation
    assert watched is not None
    losses = dict(watched.curve)
    ended = losses.get(record.tokens)
    return {
        "rate": rate,
        "picked": None if record.rate is None else record.rate.rate,
        "search_share": None if record.rate is None else record.rate.seconds / record.seconds,
        "measuring_share": watched.seconds / record.seconds,
        "validation": {"start": losses[0], "last": ended, "kept": losses[watched.kept_tokens]},
        "kept_tokens": watched.kept_tokens,
        "evaluation": {"start": start, "kept": kl_of(metrics)},
    }


def run_seed(recipe: Recipe, shapes: list[tuple[int, ...]], arms: list[str], rates: list[str]) -> list[dict[str, Any]]:
    """Every shape, arm and rate for one seed."""
    if recipe.prune.repair is None:
        recipe = recipe.model_copy(update={"prune": PruneSection(repair=RepairSection())})
    teacher = load_model(Path(recipe.teacher), device=recipe.device)
    held_out_NT = held_out_ids(recipe)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "score").mkdir()
        source = Path(recipe.teacher)
        scores = score_folder(source, recipe.score, folder / "score", seed=recipe.seed, device=recipe.device)
        for sizes in shapes:
            students = cut(recipe, scores, sizes, folder / "-".join(map(str, sizes)))
            for arm in arms:
                model = load_model(students[arm], device=recipe.device)
                start = evaluate_text(model, held_out_NT, teacher=teacher).kl_to_teacher
                assert start is not None
                for rate in rates:
                    found = run_student(recipe, students[arm], students[arm].parent, start, rate)
                    rows.append({"seed": recipe.seed, "shape": sizes, "arm": arm, **found})
                    print(json.dumps(rows[-1]), flush=True)
    return rows


def results_table(rows: list[dict[str, Any]]) -> Table:
    """A row a run."""
    table = Table(title="KL to the teacher, nats a token", title_justify="left")
    for column in ("seed", "shape", "arm", "rate", "validation: start", "last", "kept", "evaluation: start", "kept"):
        table.add_column(column, justify="right")
    for row in rows:
        watched, judged = row["validation"], row["evaluation"]
        last = "diverged" if watched["last"] is None else f"{watched['last']:.4f}"
        table.add_row(
            str(row["seed"]),
            " ".join(map(str, row["shape"])),
            row["arm"],
            row["rate"] if row["picked"] is None else f"auto: {row['picked']:g}",
            f"{watched['start']:.4f}",
            last,
            f"{watched['kept']:.4f}",
            f"{judged['start']:.4f}",
            f"{judged['kept']:.4f}",
        )
    return table


def verdict(rows: list[dict[str, Any]]) -> str:
    """How many runs ended worse than they started."""
    watched = [row["validation"] for row in rows]
    last = sum(one["last"] is None or one["last"] > one["start"] for one in watched)
    kept, judged = (sum(row[text]["kept"] > row[text]["start"] for row in rows) for text in TEXTS)
    measuring = statistics.median(row["measuring_share"] for row in rows)
    found = (
        f"of {len(rows)} runs the last state is worse than the start in {last}; what is kept is in {kept} on "
        f"validation text, in {judged} on evaluation text; measuring takes {measuring:.1%} of the time (median)"
    )
    searched = [row["search_share"] for row in rows if row["search_share"] is not None]
    return f"{found}, the search {statistics.median(searched):.1%}" if searched else found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--shapes", nargs="+", metavar="HIDDEN,FFN,HEADS,BLOCKS", help="in place of the quickstart's")
    parser.add_argument("--arms", nargs="+", choices=("plain", "repaired"), default=["plain", "repaired"])
    parser.add_argument("--rates", nargs="+", default=list(RATES))
    parser.add_argument("--tokens", type=int, default=24576)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    shapes: list[tuple[int, ...]] = list(SHAPES)
    if args.shapes:
        shapes = [tuple(map(int, shape.split(","))) for shape in args.shapes]
    rows = []
    for seed in args.seeds:
        recipe = load_recipe(args.recipe, (*args.set, f"seed={seed}", f"distill.tokens={args.tokens}"))
        rows += run_seed(recipe, shapes, args.arms, args.rates)
    Console(width=140).print(results_table(rows))
    print(verdict(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
