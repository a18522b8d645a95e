"""`minitron run`: a whole recipe, or what it would do, take and need."""

import argparse

from minitron.cli.output import Shown, print_result
from minitron.cli.recipe_arguments import add_recipe, run_recipe

SUMMARY = "run a recipe: score, search, prune, distill, evaluate, report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_recipe(parser)
    parser.add_argument("--to", dest="last", metavar="STAGE", help="stop after this stage")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what the run would do, take and need, from the recipe and the teacher's config.json alone",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the recipe, or counts what that would take."""
    if args.dry_run:
        _dry_run(args)
    else:
        run_recipe(args, last=args.last)


def _dry_run(args: argparse.Namespace) -> None:
    from minitron.api.checks import require_device_name
    from minitron.dry_run.run import plan_run
    from minitron.dry_run.tables import closing_lines, disk_table, sizes_table, stages_table, training_memory_table
    from minitron.errors import MinitronError
    from minitron.recipe.load import load_recipe

    if args.first is not None or args.last is not None:
        raise MinitronError("--dry-run is of the whole run, it takes neither --from nor --to")
    recipe = load_recipe(args.recipe, tuple(args.set))
    require_device_name(recipe.device)
    arguments = [str(args.recipe), *(word for override in args.set for word in ("--set", override))]
    arguments += [] if args.output is None else ["--output", str(args.output)]
    found = plan_run(recipe, arguments)
    tables = (sizes_table(found), stages_table(found), training_memory_table(found), disk_table(found))
    shown: list[Shown] = [table for table in tables if table is not None]
    print_result(args, found.to_json(), *shown, *closing_lines(found))
