"""`minitron quantize`: post-training quantization of a checkpoint's weights."""

import argparse
from dataclasses import fields

from minitron.cli.arguments import add_checkpoint, add_device, add_output, add_seed, positive_int
from minitron.cli.output import print_result

SUMMARY = "quantize a checkpoint's weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint(parser)
    parser.add_argument("--format", required=True, help="fp8, w8a8, w4a16, nvfp4, int8, int8-smoothquant or int4-awq")
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="text to calibrate with and measure the KL on, all tokens of it (w8a8 and w4a16 do without)",
    )
    add_output(parser)
    parser.add_argument("--samples", type=positive_int, default=64, help="samples of packed text (64)")
    parser.add_argument("--seq-len", type=positive_int, default=512, help="tokens a sample (512)")
    add_seed(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Quantizes the checkpoint."""
    from minitron.api.checks import require_checkpoint, require_run_on_text
    from minitron.checkpoints.hub import find_checkpoint
    from minitron.integrations.quantize.settings import QuantizeSettings, check_format
    from minitron.recipe.source import Source

    names = {field.name for field in fields(QuantizeSettings)}
    settings = QuantizeSettings(**{name: given for name, given in vars(args).items() if name in names})
    folder = find_checkpoint(args.checkpoint)
    check_format(require_checkpoint(folder).shape, settings.format)
    sources = [Source(path=args.data)] if args.data is not None else []
    require_run_on_text(folder, sources, device=args.device, output=args.output)

    from minitron.integrations.quantize.run import quantize_checkpoint
    from minitron.report.tables import quantized_table

    result = quantize_checkpoint(folder, settings, args.output)
    print_result(args, {"output": str(args.output), **result}, quantized_table(result), f"checkpoint: {args.output}")
