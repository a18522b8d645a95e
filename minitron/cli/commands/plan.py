"""`minitron plan`: what a pruning plan keeps, or how two plans differ."""

import argparse
from pathlib import Path

from minitron.cli.output import print_result

SUMMARY = "show what a pruning plan keeps, or how two plans differ"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("plan", type=Path, metavar="PLAN", help="a plan file, or a folder that holds one")
    parser.add_argument("other", type=Path, nargs="?", metavar="OTHER", help="a second plan for the same source")


def run(args: argparse.Namespace) -> None:
    """Shows one plan or compares two."""
    from minitron.api.plan import compare_plans, find_plan, show_plan

    paths = [find_plan(path) for path in (args.plan, args.other) if path is not None]

    from minitron.report.plan_tables import plan_diff_table, plan_table

    if args.other is None:
        described = show_plan(paths[0])
        print_result(args, described, plan_table(described))
    else:
        difference = compare_plans(*paths)
        print_result(args, difference, plan_diff_table(difference))
