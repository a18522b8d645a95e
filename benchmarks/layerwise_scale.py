"""Layerwise scoring at true scale: a checkpoint of the 12B's dims, larger than the memory it is scored in.

    python benchmarks/layerwise_scale.py --blocks 62 --tokens 1024

Writes a checkpoint of random bf16 weights into a temporary folder, then measures in one run: every block read alone,
every block computed alone (no scoring), and the layerwise calibration with everything it does, its peak resident
memory in a process of its own. The page cache is emptied of the files before each pass.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from published import NANO_12B
from rich.console import Console
from rich.table import Table
from transformers import NemotronHConfig

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.weights import write_weights
from minitron.data.samples import Samples
from minitron.importance.calibrate import calibrate
from minitron.importance.scorers import SCORERS
from minitron.importance.settings import CalibrationSettings, WidthSettings
from minitron.models.axes import tensor_shape
from minitron.models.config import config_for_shape
from minitron.models.shape import HybridShape
from minitron.runtime.stack import LayerwiseStack
from minitron.units import GIB


def shape_of(blocks: int) -> HybridShape:
    """Nano-12B-v2 with the first so many blocks."""
    return NANO_12B.resized(layers=range(blocks))


def write_checkpoint(
    folder: Path, shape: HybridShape, drawn: dict[tuple[int, ...], torch.Tensor] | None = None
) -> None:
    """Random weights; tensors of one shape share their numbers, which no timing depends on.

    Args:
        folder: New folder.
        shape: The model.
        drawn: Numbers by their shape, which several checkpoints share; what is missing is added.
    """
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    drawn = {} if drawn is None else drawn

    planned = {name: ("BF16", tensor_shape(spec, shape.sizes)) for name, spec in shape.tensors().items()}

    def draw(name: str) -> torch.Tensor:
        _, dims = planned[name]
        if dims not in drawn:
            drawn[dims] = torch.empty(dims, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
        return drawn[dims]

    write_weights(folder, planned, draw, shard_bytes=2 * GIB)
    config = NemotronHConfig(**shape.config_sizes, hybrid_override_pattern=shape.hybrid_override_pattern, chunk_size=64)
    config.architectures = ["NemotronHForCausalLM"]
    written = config_for_shape(json.loads(config.to_json_string(use_diff=False)), shape)
    (folder / "config.json").write_text(json.dumps(written))


def forget_files(folder: Path) -> None:
    """Takes the files out of the page cache, so that they are read from the disk."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@torch.no_grad()
def read_and_compute(folder: Path, samples: Samples, batch_size: int) -> tuple[float, float]:
    """Seconds of reading every block and of computing every block, one after the other."""
    stack = LayerwiseStack(open_checkpoint(folder))
    streams = [stack.embed(batch.ids(stack.device)) for batch in samples.batches(batch_size)]
    reading = computing = 0.0
    for layer in range(stack.shape.num_hidden_layers):
        started = time.perf_counter()
        for block in stack.blocks([layer]):
            read = time.perf_counter()
            streams = [stack.run([block], stream, None) for stream in streams]
            done = time.perf_counter()
        reading, computing = reading + read - started, computing + done - read
    return reading, computing


def score(folder: Path, samples: Samples, batch_size: int, scorer: str) -> dict[str, float]:
    """Seconds and peak resident bytes of the layerwise calibration."""
    stack = LayerwiseStack(open_checkpoint(folder))
    settings = CalibrationSettings(width=WidthSettings.uniform(scorer), batch_size=batch_size)
    with tempfile.TemporaryDirectory(dir=folder.parent) as state:
        started = time.perf_counter()
        scores = calibrate(stack, samples, settings, state_folder=Path(state))
        seconds = time.perf_counter() - started
    assert np.isfinite(scores.depth).all()
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    return {"seconds": seconds, "peak": peak}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--scorer", choices=list(SCORERS), default="activation")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written for the time of the run")
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    token_ids = np.random.default_rng(0).integers(3, 131072, (args.tokens // args.seq_len, args.seq_len))
    samples = Samples(token_ids=token_ids.astype(np.int32))
    if args.score:
        print(json.dumps(score(args.score, samples, args.batch_size, args.scorer)))
        return
    shape = shape_of(args.blocks)
    workplace = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        needed, free = shape.params * 2, shutil.disk_usage(workplace).free
        if needed + 4 * GIB > free:
            raise SystemExit(f"the checkpoint needs {needed / GIB:.1f} GiB, {workplace} has {free / GIB:.1f}")
        folder = workplace / "checkpoint"
        started = time.perf_counter()
        write_checkpoint(folder, shape)
        print(f"wrote {needed / GIB:.1f} GiB in {time.perf_counter() - started:.0f} s", flush=True)
        forget_files(folder)
        command = [sys.executable, __file__, "--score", str(folder), *sys.argv[1:]]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        scored = json.loads(answer.splitlines()[-1])
        print(f"scored in {scored['seconds']:.0f} s", flush=True)
        forget_files(folder)
        reading, computing = read_and_compute(folder, samples, args.batch_size)
    finally:
        shutil.rmtree(workplace)
    table = Table(title=f"{args.blocks} blocks of the 12B, {args.tokens} tokens, {args.scorer}", title_justify="left")
    for column in ("weights", "read alone", "compute alone", "layerwise scoring", "ratio", "peak RSS"):
        table.add_column(column, justify="right")
    table.add_row(
        f"{needed / GIB:.1f} GiB",
        f"{reading:.1f} s",
        f"{computing:.1f} s",
        f"{scored['seconds']:.1f} s",
        f"{scored['seconds'] / (reading + computing):.3f}",
        f"{scored['peak'] / GIB:.2f} GiB",
    )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
