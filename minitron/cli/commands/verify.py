"""`minitron verify`: proof on a tiny random model that a checkpoint's family is cut exactly."""

import argparse
from pathlib import Path

from minitron.cli.output import print_result

SUMMARY = "prove on a tiny random model of a checkpoint's configuration that cutting it is exact"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", type=Path, metavar="CHECKPOINT_OR_CONFIG", help="checkpoint folder or config.json")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="fixes the tiny model (0)")


def run(args: argparse.Namespace) -> None:
    """Prints what each law found; a law that does not hold is a fault of minitron's: exit code 1."""
    from minitron.api.verify import verify
    from minitron.report.verify_table import verify_table

    found = verify(args.model, seed=args.seed)
    result = found.to_json()
    blocks = ", ".join(f"{letter} {name}" for letter, name in found.blocks.items())
    verdict = f"{found.model_type} ({blocks}) is counted and cut exactly along every axis" if found.holds else ""
    print_result(args, result, verify_table(result["findings"]), verdict)  # type: ignore[arg-type]
    if not found.holds:
        raise LawBrokenError("; ".join(found.lines))


class LawBrokenError(Exception):
    """A family's declaration is wrong, or transformers computes otherwise than it did."""
