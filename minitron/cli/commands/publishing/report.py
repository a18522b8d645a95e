"""`minitron report`: one page about a run."""

import argparse
from dataclasses import asdict
from pathlib import Path

from minitron.cli.output import print_result

SUMMARY = "write one HTML page about a run: does it fit, how good, how fast, how to serve"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run's folder, as in runs/quickstart")
    parser.add_argument("--output", type=Path, metavar="FILE", help="HTML file to write (RUN/report.html)")


def run(args: argparse.Namespace) -> None:
    """Writes the page and says where it is."""
    from minitron.api.publishing.report import report

    found = report(args.run_folder, output=args.output)
    lines = [f"page, {found.bytes / 1e6:.2f} MB: {found.page}"]
    if found.missing:
        lines.append(f"not shown, since the run has not come so far: {', '.join(found.missing)}")
    print_result(args, {**asdict(found), "page": str(found.page)}, *lines)
