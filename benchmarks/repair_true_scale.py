"""Repair at true scale: blocks of the 12B's dims cut to the 9B's and repaired one block at a time, from and to files.

    python benchmarks/repair_true_scale.py --layers 0 1 7 --tokens 2048 [--epochs 1]

Writes a checkpoint of random bf16 weights with the 12B's blocks of these numbers (0 a Mamba-2, 1 an MLP, 7 an attention
block) into a temporary folder, cuts it to the 9B's widths and repairs it layerwise in a process of its own, whose
seconds a block and peak resident memory are shown. The head is of 8,192 tokens, which is as many rows as are solved for
at a time; the 12B's 131,072 take 16 times its seconds. Random weights say nothing about quality.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from layerwise_scale import forget_files, write_checkpoint
from published import NANO_12B
from rich.console import Console
from rich.table import Table

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.samples import Samples
from minitron.importance.scores import random_scores
from minitron.importance.selection import select_units
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.plan import PrunePlan, load_plan, save_plan
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.blockwise import repair
from minitron.prune.reconstruction.settings import RepairSettings
from minitron.prune.reconstruction.write import write_repaired
from minitron.runtime.dtypes import torch_dtype
from minitron.runtime.stack import LayerwiseStack
from minitron.units import GIB

WIDTHS = {"hidden_size": 4480, "intermediate_size": 15680, "mamba_num_heads": 128}  # Nano-9B-v2's


def write_pair(folder: Path, layers: tuple[int, ...], vocab_size: int) -> None:
    """A teacher of some of the 12B's blocks, and what is left of it at the 9B's widths."""
    shape = replace(NANO_12B.resized(layers=layers), vocab_size=vocab_size)
    write_checkpoint(folder / "teacher", shape)
    target = shape.resized(layers=tuple(range(len(layers))), **WIDTHS)
    kept = select_units(random_scores(shape, seed=0), shape, target, tuple(range(len(layers))))
    plan = PrunePlan(source=shape, target=target, keep=kept)
    prune_checkpoint(open_checkpoint(folder / "teacher"), plan, folder / "student")
    save_plan(plan, folder / "plan.json")


def measure(folder: Path, samples: Samples, settings: RepairSettings) -> dict[str, object]:
    """Seconds of each block (and of the head), and the peak resident bytes."""
    teacher, student = (open_checkpoint(folder / name) for name in ("teacher", "student"))
    plan = load_plan(folder / "plan.json")
    pair = Alignment(teacher=LayerwiseStack(teacher), student=LayerwiseStack(student), plan=plan)
    dtypes = {name: torch_dtype(stored.dtype) for name, stored in student.tensors.items()}
    weights = repair(pair, samples, settings, dtypes=dtypes, state_folder=folder / "state")
    seconds: dict[str, float] = {}
    before = time.perf_counter()
    for name, weight in weights:
        place = ".".join(name.split(".")[:3]) if ".layers." in name else "head"
        now = time.perf_counter()
        seconds[place] = seconds.get(place, 0.0) + now - before
        write_repaired(student, [(name, weight)])
        before = time.perf_counter()
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    return {"seconds": seconds, "peak": peak}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1, 7], help="numbers of the 12B's blocks")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=0, help="also refit whole blocks, for so many epochs")
    parser.add_argument("--vocab-size", type=int, default=8192, help="the 12B's: 131072")
    parser.add_argument("--folder", type=Path, help="where checkpoints are written for the time of the run")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    ids = np.random.default_rng(0).integers(3, args.vocab_size, (args.tokens // args.seq_len, args.seq_len))
    samples = Samples(token_ids=ids.astype(np.int32))
    if args.measure:
        settings = RepairSettings(batch_size=1, epochs=args.epochs)
        print(json.dumps(measure(args.measure, samples, settings)))
        return
    workplace = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        write_pair(workplace, tuple(args.layers), args.vocab_size)
        for name in ("teacher", "student"):
            forget_files(workplace / name)
        command = [sys.executable, __file__, "--measure", str(workplace), *sys.argv[1:]]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    finally:
        shutil.rmtree(workplace)
    found = json.loads(answer.splitlines()[-1])
    table = Table(title=f"{args.tokens} tokens, {args.epochs} epochs, peak RSS {found['peak'] / GIB:.2f} GiB")
    for column in ("repaired", "kind", "seconds"):
        table.add_column(column)
    for position, (name, seconds) in enumerate(found["seconds"].items()):
        kind = NANO_12B.hybrid_override_pattern[args.layers[position]] if position < len(args.layers) else ""
        table.add_row(name, kind, f"{seconds:.0f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
