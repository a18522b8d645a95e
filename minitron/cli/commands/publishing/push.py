"""`minitron push`: a checkpoint and its model card, to the Hugging Face hub."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from minitron.cli.output import print_result

if TYPE_CHECKING:
    from rich.table import Table

    from minitron.integrations.hub.plan import PushPlan

SUMMARY = "say what an upload of a checkpoint to the Hugging Face hub would hold; with --yes, upload it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder of a whole checkpoint")
    parser.add_argument("repo", metavar="REPO", help="owner/name on the hub; made where there is none")
    parser.add_argument("--yes", action="store_true", help="upload; else it is only said what would be")
    parser.add_argument("--public", action="store_true", help="make a new repository public (private)")
    parser.add_argument("--message", metavar="TEXT", help="the commit's message")


def run(args: argparse.Namespace) -> None:
    """Prints the files, and where they went."""
    from minitron.api.publishing.push import push

    done = push(args.checkpoint, args.repo, yes=args.yes, public=args.public, message=args.message)
    kind = "private" if done.plan.private else "public"
    head = f"{done.plan.checkpoint} to {done.plan.repo}, {kind} where it is new"
    lines = [f"card: {problem}" for problem in done.plan.problems]
    if done.plan.left_out:
        lines.append(f"not uploaded: {', '.join(done.plan.left_out)}")
    lines.append("nothing was uploaded; --yes uploads" if done.commit is None else f"uploaded: {done.commit}")
    print_result(args, done.to_json(), head, _table(done.plan), *lines)


def _table(plan: "PushPlan") -> "Table":
    from rich.table import Table

    table = Table()
    table.add_column("file")
    table.add_column("bytes", justify="right")
    for name, size in plan.files.items():
        table.add_row(name, f"{size:,}")
    table.add_section()
    table.add_row("total", f"{plan.total_bytes:,}", style="bold")
    return table
