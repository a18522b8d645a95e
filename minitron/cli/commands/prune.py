"""`minitron prune`: cut a checkpoint to a shape by its scores, file to file."""

import argparse
from dataclasses import asdict
from pathlib import Path

from minitron.cli.arguments import add_checkpoint, add_data, add_device, add_output, positive_float, positive_int
from minitron.cli.commands.vocabulary import MEASURES, add_measures, measures
from minitron.cli.output import print_result
from minitron.errors import MinitronError

SUMMARY = "cut a checkpoint to a shape by scores"
STORED_DTYPES = ("fp32", "bf16", "fp16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint(parser)
    parser.add_argument("--scores", type=Path, required=True, metavar="DIR", help="folder written by score")
    parser.add_argument("--shape", required=True, metavar="JSON_OR_FILE", help='as in {"hidden_size": 4480}')
    add_output(parser)
    parser.add_argument("--dtype", choices=STORED_DTYPES, help="precision to write (each tensor's own)")
    parser.add_argument("--shard-gib", type=positive_float, default=4.0, help="largest file of weights (4)")
    parser.add_argument("--drop-mtp", action="store_true", help="leave out layers that predict further tokens")
    add_data(parser, "scale norms for removed channels, measured on this text", option="--compensate")
    add_data(parser, "refit the projections on this text, in closed form", option="--repair")
    add_data(parser, "choose an FFN width for each block, by costs on this text", option="--block-widths")
    add_data(parser, "keep the tokens that this text uses, and no others", option="--vocabulary")
    add_measures(parser, "--vocabulary-")
    parser.add_argument("--samples", type=positive_int, help="samples of such text (128)")
    parser.add_argument("--seq-len", type=positive_int, help="tokens a sample, also for --block-widths (4096)")
    parser.add_argument("--ridge", type=positive_float, help="pull towards the sliced weights (0.01)")
    parser.add_argument("--epochs", type=positive_int, help="then train each block on it for so many passes (none)")
    parser.add_argument("--layerwise", action="store_true", help="hold one block in memory at a time for these two")
    add_device(parser, "device that these two run on, auto: cuda where there is one (cpu)")


def run(args: argparse.Namespace) -> None:
    """Prunes the checkpoint."""
    from minitron.api.checks import (
        require_checkpoint,
        require_device_name,
        require_output,
        require_sources,
        require_target,
        require_text_tokens,
    )
    from minitron.api.shapes import read_shape
    from minitron.checkpoints.hub import find_checkpoint
    from minitron.recipe.load import make_section
    from minitron.recipe.prune import PruneSection

    section = make_section(PruneSection, _settings(args))
    shape = read_shape(args.shape)
    folder = find_checkpoint(args.checkpoint)
    require_target(folder, args.scores, shape)
    for text in (section.vocabulary, section.compensate, section.block_widths, section.repair):
        if text is not None:
            require_sources(text.data, folder)
            require_text_tokens(require_checkpoint(folder), text.data)
    require_device_name(args.device)
    require_output(args.output)

    from minitron.api.prune import prune_checkpoint_folder

    written = prune_checkpoint_folder(folder, args.scores, shape, args.output, section, args.device)
    print_result(
        args,
        {"output": str(written.folder), "params": written.params, "shape": asdict(written.shape)},
        f"{written.params:,} parameters in {written.folder}",
    )


def _settings(args: argparse.Namespace) -> dict[str, object]:
    if args.compensate is None and args.repair is None and (args.samples or args.layerwise):
        raise MinitronError("--samples and --layerwise are for --compensate and --repair")
    if args.compensate is None and args.repair is None and args.block_widths is None and args.seq_len:
        raise MinitronError("--seq-len is for --compensate, --repair and --block-widths")
    if args.repair is None and (args.ridge is not None or args.epochs is not None):
        raise MinitronError("--ridge and --epochs are for --repair")
    text = {"samples": args.samples or 128, "seq_len": args.seq_len or 4096, "layerwise": args.layerwise}
    given: dict[str, object] = {
        "weights_dtype": args.dtype,
        "shard_gib": args.shard_gib,
        "drop_mtp": args.drop_mtp,
    }
    kept = measures(args, "vocabulary_")
    if args.vocabulary is not None:
        given["vocabulary"] = {"data": args.vocabulary, **kept}
    elif kept:
        raise MinitronError(f"{', '.join(f'--vocabulary-{one}' for one in MEASURES)} are for --vocabulary")
    if args.block_widths is not None:
        given["block_widths"] = {"data": args.block_widths, "seq_len": text["seq_len"]}
    if args.compensate is not None:
        given["compensate"] = {"data": args.compensate, **text}
    if args.repair is not None:
        given["repair"] = {"data": args.repair, **text, "ridge": args.ridge or 1e-2, "epochs": args.epochs or 0}
    return given
