"""Layerwise evaluation at true scale: two checkpoints of the 12B's widths, each larger than the memory they are run in.

    python benchmarks/layerwise_evaluation.py --blocks 16 --tokens 256

Writes a teacher and a student (FFNs of three quarters) of random bf16 weights into a temporary folder, then evaluates
the student against the teacher layerwise, its peak resident memory in a process of its own. With `--whole` the same
models are loaded whole as well, and the two evaluations are compared: give it few `--blocks` and a small `--scale`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from layerwise_scale import forget_files, write_checkpoint
from published import NANO_12B
from rich.console import Console
from rich.table import Table

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.masks import PackedText
from minitron.evaluate.layerwise import evaluate_states, run_text
from minitron.evaluate.perplexity import evaluate_text
from minitron.models.shape import HybridShape
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack
from minitron.units import GIB


def shapes_of(blocks: int, scale: int) -> dict[str, HybridShape]:
    """The first blocks of Nano-12B-v2, its hidden size, FFN and vocabulary divided by a scale; and a student of it."""
    sizes = {name: getattr(NANO_12B, name) // scale for name in ("hidden_size", "intermediate_size", "vocab_size")}
    teacher = replace(NANO_12B.resized(layers=range(blocks)), **sizes)
    return {"teacher": teacher, "student": replace(teacher, intermediate_size=teacher.intermediate_size * 3 // 4)}


def text_of(tokens: int, seq_len: int, vocab_size: int) -> PackedText:
    """Random tokens."""
    ids_NT = np.random.default_rng(0).integers(3, vocab_size, (max(1, tokens // seq_len), seq_len))
    return PackedText(ids_NT=ids_NT.astype(np.int32))


def evaluate_layerwise(workplace: Path, text: PackedText) -> dict[str, float | None]:
    """Loss, KL, seconds and peak resident bytes."""
    started = time.perf_counter()
    teacher, student = (
        run_text(LayerwiseStack(open_checkpoint(workplace / name)), text, folder=workplace / f"{name} states")
        for name in ("teacher", "student")
    )
    found = evaluate_states(student, teacher=teacher)
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    return {**asdict(found), "seconds": seconds, "peak": peak}


def evaluate_whole(workplace: Path, text: PackedText) -> dict[str, float | None]:
    """Loss and KL of whole models."""
    teacher, student = (load_model(workplace / name) for name in ("teacher", "student"))
    return asdict(evaluate_text(student, text, teacher=teacher))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--scale", type=int, default=1, help="divides hidden size, FFN and vocabulary (1)")
    parser.add_argument("--whole", action="store_true", help="also evaluate whole models, and compare")
    parser.add_argument("--folder", type=Path, help="where the checkpoints are written for the time of the run")
    parser.add_argument("--evaluate", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    shapes = shapes_of(args.blocks, args.scale)
    text = text_of(args.tokens, args.seq_len, shapes["teacher"].vocab_size)
    if args.evaluate:
        print(json.dumps(evaluate_layerwise(args.evaluate, text)))
        return
    workplace = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        needed, free = sum(shape.params * 2 for shape in shapes.values()), shutil.disk_usage(workplace).free
        if needed + 4 * GIB > free:
            raise SystemExit(f"the checkpoints need {needed / GIB:.1f} GiB, {workplace} has {free / GIB:.1f}")
        drawn: dict[tuple[int, ...], torch.Tensor] = {}
        for name, shape in shapes.items():
            write_checkpoint(workplace / name, shape, drawn)
            forget_files(workplace / name)
        del drawn
        command = [sys.executable, __file__, "--evaluate", str(workplace), *sys.argv[1:]]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows = {"layerwise": json.loads(answer.splitlines()[-1])}
        if args.whole:
            rows["whole"] = evaluate_whole(workplace, text)
    finally:
        shutil.rmtree(workplace)
    table = Table(title=f"{args.blocks} blocks, {text.ids_NT.size} tokens, {needed / GIB:.2f} GiB of weights")
    for column in ("", "loss", "KL", "seconds", "peak RSS"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        measured = (f"{row['seconds']:.0f}", f"{row['peak'] / GIB:.2f} GiB") if "peak" in row else ("", "")
        table.add_row(name, f"{row['loss']:.9f}", f"{row['kl_to_teacher']:.9f}", *measured)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
