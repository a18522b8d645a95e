"""`minitron status`: how far a run is, looked at from elsewhere."""

import argparse
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from minitron.cli.output import print_result

if TYPE_CHECKING:
    from rich.table import Table

    from minitron.pipeline.status import RunStatus

SUMMARY = "say how far a run is, from another terminal or machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run's folder, as in runs/quickstart")


def run(args: argparse.Namespace) -> None:
    """Prints the stages and what the run is at."""
    from minitron.api.run import status

    found = status(args.run_folder)
    print_result(
        args, {**asdict(found), "silent_seconds": found.silent_seconds}, _table(found, args.run_folder), _line(found)
    )


def _table(status: "RunStatus", folder: Path) -> "Table":
    from rich.table import Table

    table = Table(title=f"{folder}, {status.state}", title_justify="left")
    table.add_column("stage")
    table.add_column("state")
    table.add_column("time", justify="right")
    table.add_column("files")
    for stage in status.stages:
        ended = stage.state in ("finished", "finished before")
        lies = folder / (stage.name if ended else f"{stage.name}.partial")
        took = "" if stage.seconds is None else _duration(stage.seconds)
        table.add_row(stage.name, stage.state, took, str(lies) if lies.is_dir() else "")
    return table


def _line(status: "RunStatus") -> str:
    """What the run is at, and when it last said so."""
    said = f"{_duration(status.silent_seconds)} ago by process {status.process} on {status.host}"
    if status.state == "failed":
        return f"failed {said}: {status.error}"
    if status.state == "interrupted":
        return f"last seen {said}; the same command goes on from there"
    if status.state == "finished":
        return f"finished {said}"
    step = status.step
    if step is None:
        return f"last seen {said}"
    total = "?" if step.total is None else f"{step.total:,.0f}"
    left = "" if step.seconds_left is None else f", {_duration(step.seconds_left)} left"
    return f"{step.description.strip()}: {step.completed:,.0f} of {total}{left}; last seen {said}"


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> _duration(3725.4)
    '1:02:05'
    """
    return str(timedelta(seconds=round(seconds)))
