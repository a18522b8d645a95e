"""`minitron merge`: a weighted average of checkpoints of one shape."""

import argparse

from minitron.cli.arguments import add_output
from minitron.cli.output import print_result

SUMMARY = "interpolate checkpoints of one shape"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="two or more, folders or names on the hub")
    add_output(parser)
    parser.add_argument(
        "--weights", type=float, nargs="+", metavar="WEIGHT", help="one a checkpoint, of sum 1 (equal ones)"
    )


def run(args: argparse.Namespace) -> None:
    """Merges the checkpoints."""
    from minitron.api.checks import require_mergeable, require_output
    from minitron.checkpoints.hub import find_checkpoint

    folders = [find_checkpoint(given) for given in args.checkpoints]
    require_mergeable(folders, args.weights)
    require_output(args.output)

    from minitron.api.merge import merge

    result = merge(folders, output=args.output, weights=args.weights)
    shares = ", ".join(f"{share:g} of {folder}" for share, folder in zip(result.weights, args.checkpoints, strict=True))
    print_result(args, result.to_json(), f"{result.params:,} parameters in {result.output}: {shares}")
