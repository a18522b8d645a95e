"""`minitron eval`: held-out loss, KL to a teacher, exact match on a task, and speed of one checkpoint."""

import argparse
from pathlib import Path
from typing import get_args

from minitron.cli.arguments import add_checkpoint, add_data, add_device, positive_int
from minitron.cli.output import print_result
from minitron.dtypes import EvaluatedDtype

SUMMARY = "measure a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint(parser)
    add_data(parser, "held-out text", required=True)
    parser.add_argument("--teacher", metavar="CHECKPOINT", help="also measure the KL to it; folder or name")
    parser.add_argument("--task", metavar="PATH", help=".jsonl with prompt and answer, for exact match")
    parser.add_argument("--max-new-tokens", type=positive_int, default=256, help="tokens an answer may take (256)")
    parser.add_argument("--sequences", "--blocks", type=positive_int, default=64, help="sequences of packed text (64)")
    parser.add_argument("--seq-len", type=positive_int, default=1024, help="tokens a sequence (1024)")
    parser.add_argument("--context", type=positive_int, default=131072, help="tokens that the bytes are for (131072)")
    parser.add_argument(
        "--dtype",
        choices=("auto", *get_args(EvaluatedDtype)),
        default="auto",
        help="what the models are held in (auto: bf16 on CUDA, else fp32)",
    )
    parser.add_argument("--speed", action="store_true", help="also measure generated tokens a second, minutes of work")
    parser.add_argument(
        "--layerwise", action="store_true", help="one block of one model in memory at a time; neither a task nor speed"
    )
    add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Measures the checkpoint."""
    from minitron.api.checks import (
        require_checkpoint,
        require_device_name,
        require_file,
        require_sources,
        require_text_tokens,
    )
    from minitron.checkpoints.hub import find_checkpoint
    from minitron.recipe.evaluate import EvaluateSection
    from minitron.recipe.load import make_section
    from minitron.vocabulary.kept_tokens import comparable_ids

    settings = _settings(args)
    sources = make_section(EvaluateSection, {"data": args.data, **settings}).data
    folder = find_checkpoint(args.checkpoint)
    teacher = None if args.teacher is None else find_checkpoint(args.teacher)
    found = [require_checkpoint(one) for one in (folder, teacher) if one is not None]
    if teacher is not None:
        comparable_ids(teacher, folder)
    require_sources(sources, folder)
    if args.task is not None:
        require_file(Path(args.task), "a task")
    for one in found:
        require_text_tokens(one, sources, task=args.task)
    require_device_name(args.device)

    from minitron.api.evaluate import evaluate
    from minitron.report.tables import metrics_table

    metrics = evaluate(folder, sources, teacher=teacher, settings=settings, context=args.context, device=args.device)
    table = metrics_table({Path(args.checkpoint).name: metrics}, budget_bytes=None, context_tokens=args.context)
    print_result(args, metrics.to_json(), table)


def _settings(args: argparse.Namespace) -> dict[str, object]:
    """The evaluate section's settings, the text aside."""
    settings: dict[str, object] = {
        "sequences": args.sequences,
        "seq_len": args.seq_len,
        "dtype": args.dtype,
        "layerwise": args.layerwise,
        "speed": {} if args.speed else None,
    }
    if args.task is not None:
        task = Path(args.task)
        settings["task"] = {"name": task.stem, "path": args.task, "max_new_tokens": args.max_new_tokens}
    return settings
