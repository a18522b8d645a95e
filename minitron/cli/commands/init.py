"""`minitron init`: a first recipe for a checkpoint and a memory."""

import argparse
import sys
from pathlib import Path

from minitron.cli.arguments import CONFIG_HELP, positive_float, positive_int
from minitron.cli.output import Shown, print_result

SUMMARY = "write a first recipe for a checkpoint and a memory, and say what its run takes"

# Option -> what is asked, as no file says it.
QUESTIONS = {
    "gpu": "GPU that the student is served on",
    "context": "Tokens that each served sequence must hold",
    "data": "Text to calibrate and train on, part of which is held out (file, folder, pattern, owner/name)",
    "train_gpu": "GPU that it is trained on, or cpu",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from typing import get_args

    from minitron.dtypes import WeightsDtype
    from minitron.estimate.devices import DEVICES

    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CONFIG_HELP)
    parser.add_argument("--gpu", metavar="GPU", help=f"served on: {', '.join(DEVICES)} (a10g)")
    parser.add_argument("--memory-gib", type=positive_float, help="memory to be served in, in place of --gpu")
    parser.add_argument("--max-params", type=positive_int, metavar="N", help="most parameters")
    parser.add_argument("--context", type=positive_int, help="tokens a served sequence (131072)")
    parser.add_argument("--sequences", type=positive_int, default=1, help="sequences at once (1)")
    parser.add_argument("--weights", choices=get_args(WeightsDtype), default="bf16", help="precision served in (bf16)")
    parser.add_argument(
        "--data", action="append", metavar="DATA", help="text to train on (text.jsonl); may be repeated"
    )
    parser.add_argument("--heldout", action="append", metavar="DATA", help="text to evaluate on (a part of --data)")
    parser.add_argument("--train-gpu", metavar="GPU", help="trained on: one of these GPUs, or cpu (h100)")
    parser.add_argument("--train-gpus", type=positive_int, metavar="N", help="how many (the fewest that hold it)")
    parser.add_argument("--tokens", type=positive_int, help="tokens to distill on (a twentieth of the parameters)")
    parser.add_argument("--output", type=Path, default=Path("recipe.yaml"), metavar="FILE", help="(recipe.yaml)")
    parser.add_argument("-y", "--yes", action="store_true", help="ask nothing, take what is suggested")


def run(args: argparse.Namespace) -> None:
    """Asks what is not given, writes the recipe, and prints what its run takes."""
    from minitron.drafting.draft import draft_recipe
    from minitron.drafting.wishes import Wishes
    from minitron.dry_run.tables import closing_lines, sizes_table, stages_table, training_memory_table
    from minitron.errors import MinitronError

    if args.gpu is not None and args.memory_gib is not None:
        raise MinitronError("only one of --gpu and --memory-gib can be given")
    answers = _answers(args)
    wishes = Wishes(
        gpu=None if args.memory_gib is not None else answers["gpu"],
        memory_gib=args.memory_gib,
        max_params=args.max_params,
        context_tokens=_count(answers["context"]),
        sequences=args.sequences,
        weights_dtype=args.weights,
        data=tuple(args.data or (answers["data"],)),
        heldout=tuple(args.heldout or ()),
        train_gpu=answers["train_gpu"],
        train_gpus=args.train_gpus,
        tokens=args.tokens,
    )
    draft = draft_recipe(args.checkpoint, args.output, wishes)
    found = draft.dry_run
    tables = (sizes_table(found), stages_table(found), training_memory_table(found))
    shown: list[Shown] = [table for table in tables if table is not None]
    warnings = [f"warning: {warning}" for warning in draft.warnings]
    print_result(args, draft.to_json(), f"wrote {draft.recipe}", *shown, *warnings, *closing_lines(found))


def _answers(args: argparse.Namespace) -> dict[str, str]:
    """Option -> what was given for it, answered, or suggested."""
    from minitron.drafting.wishes import Wishes
    from minitron.errors import MinitronError

    given = {name: getattr(args, name) for name in QUESTIONS} | ({} if args.memory_gib is None else {"gpu": "-"})
    missing = [name for name, value in given.items() if value is None]
    if missing and not args.yes and not sys.stdin.isatty():
        options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise MinitronError(f"nobody can be asked here: give {options}, or --yes for what is suggested")
    wishes = Wishes()
    suggested = {
        "gpu": str(wishes.gpu),
        "context": str(wishes.context_tokens),
        "data": wishes.data[0],
        "train_gpu": wishes.train_gpu,
    }
    answers = {name: str(value) for name, value in given.items() if value is not None}
    for name in missing:
        answers[name] = suggested[name] if args.yes else _ask(QUESTIONS[name], suggested[name])
    return answers


def _ask(question: str, suggested: str) -> str:
    print(f"{question} [{suggested}]: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() or suggested


def _count(text: str) -> int:
    from minitron.errors import MinitronError

    try:
        return positive_int(text.replace(",", "").replace("_", ""))
    except (ValueError, argparse.ArgumentTypeError):
        raise MinitronError(f"tokens of a sequence must be a whole number of at least 1, got {text!r}") from None
