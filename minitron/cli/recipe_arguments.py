"""Arguments and output that `run`, `search` and `distill` share: each runs a recipe up to some stage."""

import argparse
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from minitron.cli.arguments import add_overrides
from minitron.cli.output import Shown, is_first_process, print_result

if TYPE_CHECKING:
    from minitron.api.run import RunResult
    from minitron.pipeline.runner import StageOutcome


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Adds the recipe, its run folder, overrides and the stage to start from."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML file")
    parser.add_argument("--output", type=Path, metavar="DIR", help="run folder (runs/NAME)")
    add_overrides(parser, "override a setting, as in seed=1 or distill.tokens=200000")
    parser.add_argument("--from", dest="first", metavar="STAGE", help="run this stage and later ones anew")


def run_recipe(
    args: argparse.Namespace,
    *,
    last: str | None,
    only: Collection[str] | None = None,
    overrides: tuple[str, ...] = (),
) -> None:
    """Loads the recipe, checks it, runs its stages and prints what came out.

    Args:
        args: The command's arguments.
        last: The stage to stop after.
        only: The stages that may run; all of the recipe's when None.
        overrides: Settings that the command itself sets.
    """
    from minitron.api.run import run_stages
    from minitron.recipe.load import load_recipe

    recipe = load_recipe(args.recipe, (*args.set, *overrides))
    result = run_stages(recipe, args.output, first=args.first, last=last, only=only, on_outcome=tell)
    print_result(args, result.to_json(), *_shown(result))


def tell(outcome: "StageOutcome") -> None:
    """Says on stderr what became of a stage; of several processes only the first one does."""
    if not is_first_process():
        return
    note = "finished before, skipped" if outcome.skipped else f"done in {outcome.seconds:.1f} s"
    print(f"{outcome.name:<13} {note}", file=sys.stderr, flush=True)


def _shown(result: "RunResult") -> list[Shown]:
    from minitron.report.tables import candidates_table, metrics_table
    from minitron.report.vocabulary_table import vocabulary_table

    shown: list[Shown] = []
    if result.vocabulary is not None:
        shown.append(vocabulary_table(result.vocabulary))
    if result.search is not None:
        shown.append(candidates_table(result.search))
    if result.metrics is not None:
        budget = result.recipe.budget
        shown.append(
            metrics_table(result.metrics, budget_bytes=budget.budget_bytes, context_tokens=budget.context_tokens)
        )
    if result.reached("cache"):
        shown.append(f"teacher's cache: {result.folder.teacher_cache}")
    if result.student is not None:
        shown.append(f"student: {result.student}")
    if result.reached("report"):
        shown.append(f"picture, look at it first: {result.folder.picture}")
    return shown
