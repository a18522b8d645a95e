"""`minitron extract`: a smaller student out of the weights that it was trained in."""

import argparse
from dataclasses import asdict
from pathlib import Path

from minitron.cli.arguments import add_output
from minitron.cli.output import print_result

SUMMARY = "write a student that was trained inside a larger one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint with students.json, or of its run")
    parser.add_argument(
        "--shape", required=True, metavar="NAME_OR_JSON", help='a student\'s name, or as in {"hidden_size": 4480}'
    )
    add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Extracts the student."""
    from minitron.api.checks import require_checkpoint, require_output
    from minitron.api.students import checkpoint_of, find_student

    find_student(require_checkpoint(checkpoint_of(args.checkpoint)), args.shape)
    require_output(args.output)

    from minitron.api.extract import extract

    written = extract(args.checkpoint, args.shape, output=args.output)
    print_result(
        args,
        {"output": str(written.folder), "params": written.params, "shape": asdict(written.shape)},
        f"{written.params:,} parameters in {written.folder}",
    )
