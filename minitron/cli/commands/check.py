"""`minitron check`: which serving readers take a checkpoint."""

import argparse

from minitron.cli.arguments import CONFIG_HELP, positive_int
from minitron.cli.output import print_result

SUMMARY = "say which serving readers take a checkpoint, and why not"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from minitron.estimate.serving.reader_names import NEWEST, READERS

    parser.add_argument("model", metavar="CHECKPOINT_OR_CONFIG", help=CONFIG_HELP)
    parser.add_argument(
        "--reader",
        nargs="+",
        action="extend",
        metavar="READER",
        help=f"{', '.join(READERS)} ({', '.join(NEWEST)})",
    )
    parser.add_argument(
        "--tensor-parallel", type=positive_int, default=1, metavar="N", help="GPUs that every matrix is split over (1)"
    )


def run(args: argparse.Namespace) -> None:
    """Prints what each reader says; exit code 2 where one refuses, with a line for each fault."""
    from minitron.api.check import check
    from minitron.errors import MinitronError
    from minitron.report.check_table import check_table

    found = check(args.model, args.reader or (), tensor_parallel=args.tensor_parallel)
    result = found.to_json()
    print_result(args, result, check_table(result["readers"]))  # type: ignore[arg-type]
    if not found.takes:
        raise MinitronError(*found.lines)
