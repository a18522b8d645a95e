"""`minitron export`: a checkpoint as one file for another engine."""

import argparse
from pathlib import Path

from minitron.cli.arguments import add_checkpoint
from minitron.cli.output import print_result

SUMMARY = "write a checkpoint as a GGUF file, which llama.cpp reads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint(parser)
    parser.add_argument("--format", required=True, help="gguf")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="new file to write")
    parser.add_argument("--dtype", help="precision of matrices: f32, f16, bf16 or q8_0 (each as it is stored)")
    parser.add_argument("--pre-tokenizer", metavar="NAME", help="llama.cpp's name of it (as tokenizer.json declares)")


def run(args: argparse.Namespace) -> None:
    """Exports the checkpoint."""
    from minitron.api.export import export

    done = export(
        args.checkpoint,
        output=args.output,
        format=args.format,
        dtype=args.dtype,
        pre_tokenizer=args.pre_tokenizer,
    )
    types = ", ".join(f"{count} {kind}" for kind, count in done.types.items())
    print_result(
        args,
        done.to_json(),
        f"{done.params:,} parameters, {done.tensors} tensors ({types}), {done.bytes:,} bytes in {done.output}",
    )
