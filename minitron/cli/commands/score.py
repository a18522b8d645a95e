"""`minitron score`: calibrate a checkpoint and write the scores of its units and blocks."""

import argparse

from minitron.cli.arguments import (
    add_checkpoint,
    add_data,
    add_device,
    add_output,
    add_overrides,
    add_seed,
    positive_int,
)
from minitron.cli.output import print_result

SUMMARY = "calibrate a checkpoint and write its scores"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint(parser)
    add_data(parser, "calibration text", required=True)
    add_output(parser)
    parser.add_argument("--samples", type=positive_int, default=1024, help="calibration samples (1024)")
    parser.add_argument("--seq-len", type=positive_int, default=4096, help="tokens a sample (4096)")
    parser.add_argument("--batch-size", type=positive_int, default=8, help="samples in one forward pass (8)")
    parser.add_argument("--layerwise", action="store_true", help="hold one block in memory at a time")
    add_overrides(parser, "any other setting of a recipe's score section, as depth.scorer=logit_mse or packed=false")
    add_seed(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Scores the checkpoint."""
    from minitron.api.checks import require_run_on_text
    from minitron.checkpoints.hub import find_checkpoint
    from minitron.recipe.load import make_section
    from minitron.recipe.score import ScoreSection

    given = {
        "data": args.data,
        "samples": args.samples,
        "seq_len": args.seq_len,
        "batch_size": args.batch_size,
        "layerwise": args.layerwise,
    }
    section = make_section(ScoreSection, given, tuple(args.set))
    folder = find_checkpoint(args.checkpoint)
    require_run_on_text(folder, section.data, device=args.device, output=args.output)

    from minitron.api.score import score_checkpoint
    from minitron.checkpoints.checkpoint import open_checkpoint
    from minitron.importance.summary import summarize_scores
    from minitron.report.tables import scores_table

    scores = score_checkpoint(folder, section, output=args.output, seed=args.seed, device=args.device)
    summary = summarize_scores(scores, open_checkpoint(folder).shape)
    result = {"output": str(args.output), "blocks": [block.to_json() for block in summary]}
    print_result(args, result, scores_table(summary), f"scores and pictures: {args.output}")
