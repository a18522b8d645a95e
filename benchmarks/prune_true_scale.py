"""Pruning at true scale: the published 12B cut to the published 9B on disk, held against the disk's own speed.

    python benchmarks/prune_true_scale.py                 # all 62 blocks: 42 GB of disk
    python benchmarks/prune_true_scale.py --blocks 8      # the same with the first blocks

Writes a checkpoint of random bf16 weights into a temporary folder and prunes it in a process of its own. The kept
channels and neurons are drawn at random, so that they are as scattered as scores make them. The limit, measured in the
same run on the same disk: reading the whole source once (`cat`) and writing as many bytes as the result has once (`dd`,
synced). Every pass begins with a cold cache. Pruning counts the parameters three ways; the logit check behind it, which
reads both models again and computes, is timed apart.
"""

import argparse
import json
import os
import shutil
import statistics
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
from minitron.models.axes import tensor_shape
from minitron.models.config import config_for_shape
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape
from minitron.prune.checkpoint import OutputFormat, prune_checkpoint
from minitron.prune.plan import PrunePlan
from minitron.prune.verification import check_logits
from minitron.units import GIB

# The blocks that the published 9B lacks: 7, 8, 48, 52, and one neighboring pair of M and -.
REMOVED = (7, 8, 17, 18, 48, 52)
NANO_9B_PATTERN = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"
NANO_9B_PARAMS = 8_888_227_328
CHUNK_BYTES = 512 * 2**20


def source_shape(blocks: int) -> HybridShape:
    """Nano-12B-v2 with the first so many blocks."""
    return NANO_12B.resized(layers=range(blocks))


def make_plan(source: HybridShape) -> PrunePlan:
    """The 9B's widths and, of its blocks, those that the source has; which units are kept is drawn."""
    rng = np.random.default_rng(0)

    def draw(size: int, count: int) -> np.ndarray:
        return np.sort(rng.permutation(size)[:count])

    layers = tuple(layer for layer in range(source.num_hidden_layers) if layer not in REMOVED)
    indices: dict[tuple[str, int | None], np.ndarray] = {("hidden_size", None): draw(source.hidden_size, 4480)}
    for layer in layers:
        if source.hybrid_override_pattern[layer] == "-":
            indices["intermediate_size", layer] = draw(source.intermediate_size, 15680)
    target = source.resized(layers=layers, hidden_size=4480, intermediate_size=15680)
    if source == NANO_12B and (target.hybrid_override_pattern, target.params) != (NANO_9B_PATTERN, NANO_9B_PARAMS):
        raise SystemExit(f"the full size must end as the published 9B, it ends as {target}")
    return PrunePlan(source=source, target=target, keep=Keep(layers=layers, indices=indices))


def write_source(folder: Path, shape: HybridShape) -> None:
    """Random weights below 2 in size, every byte drawn anew, so that no disk can pack them."""
    folder.mkdir()
    rng = np.random.Generator(np.random.SFC64(0))

    planned = {name: ("BF16", tensor_shape(spec, shape.sizes)) for name, spec in shape.tensors().items()}

    def draw(name: str) -> torch.Tensor:
        _, dims = planned[name]
        words = rng.integers(0, 2**64, -(-int(np.prod(dims)) // 4), dtype=np.uint64).view(np.uint16)
        words &= 0xBFFF
        return torch.from_numpy(words[: int(np.prod(dims))].view(np.int16)).view(torch.bfloat16).reshape(dims)

    write_weights(folder, planned, draw, shard_bytes=2 * GIB)
    config = NemotronHConfig(**shape.config_sizes, hybrid_override_pattern=shape.hybrid_override_pattern, chunk_size=64)
    config.architectures = ["NemotronHForCausalLM"]
    written = config_for_shape(json.loads(config.to_json_string(use_diff=False)), shape)
    (folder / "config.json").write_text(json.dumps(written))


def cool(folder: Path) -> None:
    """Empties the page cache, of everything where that is allowed, else of the folder's files."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        for path in folder.rglob("*.safetensors"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds_of(command: str, *arguments: str) -> float:
    """Seconds that a shell command takes."""
    started = time.perf_counter()
    subprocess.run(["sh", "-ec", command, "sh", *arguments], check=True)
    return time.perf_counter() - started


def measure_read(folder: Path) -> float:
    """Seconds of reading the whole source once."""
    cool(folder)
    return seconds_of('cat "$@" > /dev/null', *map(str, sorted(folder.glob("*.safetensors"))))


def measure_write(folder: Path, sizes: list[int]) -> float:
    """Seconds of writing files of so many bytes, each synced: random bytes out of memory, a chunk at a time."""
    folder.mkdir()
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as chunk:
        for _ in range(CHUNK_BYTES // 2**23):
            chunk.write(os.urandom(2**23))
        chunk.flush()
        cool(folder)
        seconds = 0.0
        for number, size in enumerate(sizes):
            for start in range(0, size, CHUNK_BYTES):
                count = min(CHUNK_BYTES, size - start)
                seconds += seconds_of(
                    'dd if="$1" of="$2" bs=8M iflag=count_bytes oflag=append conv=notrunc,fsync count="$3" status=none',
                    chunk.name,
                    str(folder / f"{number}.safetensors"),
                    str(count),
                )
    shutil.rmtree(folder)
    return seconds


def prune(source: Path, output: Path, threads: int | None) -> dict[str, float]:
    """Seconds, peak resident bytes and parameters of pruning, then those of the logit check behind it."""
    opened = open_checkpoint(source)
    plan = make_plan(opened.shape)
    started = time.perf_counter()
    written = prune_checkpoint(opened, plan, output, OutputFormat(threads=threads), check=False)
    found = {"seconds": time.perf_counter() - started, "peak": peak_bytes(), "params": written.params}
    if written.params != plan.target.params:
        raise SystemExit(f"the headers must count {plan.target.params:,} parameters, they count {written.params:,}")
    times = os.times()
    started = time.perf_counter()
    check_logits(opened, written, plan)
    checked = {"checked": time.perf_counter() - started, "checked_peak": peak_bytes()}
    return {**found, "user": times.user, "system": times.system, **checked}


def peak_bytes() -> int:
    """Most bytes that this process has had resident."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def measure_prune(workplace: Path) -> tuple[dict[str, float], list[int]]:
    """What pruning in a process of its own reports, and the sizes of the files it wrote."""
    cool(workplace)
    output = workplace / "pruned"
    command = [sys.executable, __file__, *sys.argv[1:], "--prune", str(workplace)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    sizes = [path.stat().st_size for path in sorted(output.glob("*.safetensors"))]
    shutil.rmtree(output)
    return json.loads(answer.splitlines()[-1]), sizes


def show(rows: list[dict[str, float]], title: str) -> None:
    """The table of all passes."""
    table = Table(title=title, title_justify="left")
    for column in (
        "read alone",
        "write alone",
        "limit",
        "pruning",
        "ratio",
        "CPU",
        "peak RSS",
        "parameters",
        "logit check",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            f"{row['read']:.1f} s",
            f"{row['write']:.1f} s",
            f"{row['read'] + row['write']:.1f} s",
            f"{row['seconds']:.1f} s",
            f"{row['seconds'] / (row['read'] + row['write']):.3f}",
            f"{row['user'] + row['system']:.1f} s",
            f"{row['peak'] / GIB:.3f} GiB",
            f"{row['params']:,}",
            f"{row['checked']:.1f} s, {row['checked_peak'] / GIB:.2f} GiB",
        )
    Console(width=120).print(table)
    ratios = [row["seconds"] / (row["read"] + row["write"]) for row in rows]
    print(f"median ratio {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=NANO_12B.num_hidden_layers)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are written for the time of the run")
    parser.add_argument("--prune", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prune:
        print(json.dumps(prune(args.prune / "source", args.prune / "pruned", args.threads)))
        return
    plan = make_plan(source_shape(args.blocks))
    workplace = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        needed, free = (plan.source.params + plan.target.params) * 2 + GIB, shutil.disk_usage(workplace).free
        if needed > free:
            raise SystemExit(f"the checkpoints need {needed / GIB:.1f} GiB, {workplace} has {free / GIB:.1f}")
        started = time.perf_counter()
        write_source(workplace / "source", plan.source)
        print(f"wrote {plan.source.params * 2 / GIB:.1f} GiB in {time.perf_counter() - started:.0f} s", flush=True)
        rows = []
        for _ in range(args.repeat):
            pruned, sizes = measure_prune(workplace)
            limit = {"read": measure_read(workplace / "source"), "write": measure_write(workplace / "plain", sizes)}
            rows.append(pruned | limit)
            print(json.dumps(rows[-1]), flush=True)
    finally:
        shutil.rmtree(workplace)
    before, after = (shape.params * 2 / GIB for shape in (plan.source, plan.target))
    show(rows, f"{args.blocks} blocks of the 12B: {before:.1f} GiB to {after:.1f} GiB")


if __name__ == "__main__":
    main()
