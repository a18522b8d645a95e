"""How fast shapes are counted, on one core, and that the counts are exact.

    python benchmarks/enumeration.py

A space of several million shapes of the 12B's dims is solved under a memory budget, by both accountings, and under
memory, parameters and throughput at once. Then shapes drawn at random are counted one at a time by plain Python, from
the same declarations but without numpy, and every total and verdict must be the same. Last, `minitron fit` on a
config.json is timed as a user runs it, the start of Python included.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy: one core is what is measured

import numpy as np
from published import NANO_12B
from rich.console import Console
from rich.table import Table

from minitron.estimate.devices import find_device, usable_bytes
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.search.limits import Limits, count_grid
from minitron.search.solver import solve_budget
from minitron.search.space import SearchSpace, size_range


def the_space() -> SearchSpace:
    """Depths 62 to 52 (the last blocks go) and every width that kernels like, down to about half."""
    return SearchSpace(
        source=NANO_12B,
        layers=tuple(tuple(range(blocks)) for blocks in range(62, 51, -1)),
        sizes={
            "hidden_size": size_range(NANO_12B, "hidden_size", low=2560),
            "intermediate_size": size_range(NANO_12B, "intermediate_size", low=10240),
            "mamba_num_heads": size_range(NANO_12B, "mamba_num_heads", low=64),
            "mamba_head_dim": size_range(NANO_12B, "mamba_head_dim", low=40),
            "num_attention_heads": size_range(NANO_12B, "num_attention_heads", low=24),
        },
    )


def check(space: SearchSpace, workload: Workload, limits: Limits, samples: int) -> int:
    """Counts shapes drawn at random one at a time; returns how many agreed, which must be all."""
    rng = np.random.default_rng(0)
    grids = list(space.grids())
    for _ in range(samples):
        grid = grids[int(rng.integers(len(grids)))]
        counted = count_grid(grid, workload, limits)
        index = int(rng.integers(len(counted.total_bytes)))
        total = memory_bytes(grid.shape_at(index), workload).total_bytes
        if total != counted.total_bytes[index] or (total <= limits.budget_bytes) != counted.feasible[index]:
            raise SystemExit(
                f"{grid.shape_at(index)}: {total} bytes one at a time, {counted.total_bytes[index]} at once"
            )
    return samples


def fit_seconds(rounds: int) -> list[float]:
    """Wall time of `minitron fit` on a config.json, each round in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(asdict(NANO_12B)))
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "minitron", "fit", str(config)], check=True, stdout=subprocess.DEVNULL
            )
            seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=200, help="shapes that are also counted one at a time")
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    space, device = the_space(), find_device("a10g")
    budget = usable_bytes(device.visible_bytes, utilization=0.95, reserved_gib=1.3)
    plain = Workload(context_tokens=131072)
    paged = Workload(context_tokens=131072, accounting="vllm", workspace_gib=1)
    cases = {
        "memory, plain": (plain, Limits(budget_bytes=budget)),
        "memory, vLLM's blocks": (paged, Limits(budget_bytes=budget)),
        "memory, parameters and throughput": (
            plain,
            Limits(budget_bytes=budget, max_params=9 * 10**9, min_tokens_per_s=150.0, device=device),
        ),
    }
    table = Table(title=f"{space.num_shapes:,} shapes on one core", title_justify="left")
    for column in ("limits", "within them", "million shapes/s, median (range)", "counted one at a time, equal"):
        table.add_column(column, justify="right")
    for name, (workload, limits) in cases.items():
        speeds = []
        for _ in range(args.rounds):
            started = time.perf_counter()
            result = solve_budget(space, workload, limits, top_k=3)
            speeds.append(space.num_shapes / (time.perf_counter() - started) / 1e6)
        agreed = check(space, workload, Limits(budget_bytes=budget), args.samples)
        speed = f"{statistics.median(speeds):.1f} ({min(speeds):.1f} to {max(speeds):.1f})"
        table.add_row(name, f"{result.num_feasible:,}", speed, f"{agreed} of {agreed}")
    console = Console(width=120, highlight=False)
    console.print(table)
    seconds = fit_seconds(args.rounds)
    console.print(
        f"minitron fit config.json: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
    )


if __name__ == "__main__":
    main()
