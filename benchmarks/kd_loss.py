"""The distillation loss beside its peers and its floor: time, memory, and the gradient's error, in one run.

    make bench-kd                                           # installs the peers, runs everything
    python benchmarks/kd_loss.py --only floor minitron      # without peers
    python benchmarks/kd_loss.py --tokens 1024 --parts time
    python benchmarks/kd_loss.py --device cuda              # bf16 inputs

Every method goes from hidden states and heads of student and teacher to the mean forward KL and the gradients of the
student's hidden states and head, at a vocabulary of 131,072; fp32 on CPU, bf16 on CUDA. Tables (`--parts`):

time    Floor: the four matrix products that no loss with exact gradients avoids (two logits, two gradients), as
        `torch.mm` does them for all tokens at once, into buffers that are there already. A round runs the floor,
        minitron, the floor, then the others and the floor; a ratio is a method's time over the mean of the floors next
        to it. Medians of rounds and their range, in wall and in CPU seconds (of all threads; less upset by other
        processes). Liger compiles on its first calls; they are dropped.
memory  A process of its own for each. After a pass over a few tokens, resident memory is read with the inputs there and
        no gradients. The process's peak less that, and less the size of the two gradients, is given: what the method
        takes beyond what it is given and what it gives back. On CUDA the same of allocated memory.
errors  Of bf16 inputs at a KL of about 0.01 (512 tokens, hidden size 256, vocabulary 32,768), against the same in
        float64: relative error of the loss, and of each gradient in the Frobenius norm. Rounding a gradient to bf16
        alone costs 0.0017.

A method whose logits would not fit into free memory is skipped and named. Run it on a machine that does nothing else.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from kd_methods import METHODS, Inputs, Loss, Method, random_inputs
from rich.console import Console
from rich.table import Table

from minitron.distill.loss.chunked import DEFAULT_CHUNK_TOKENS
from minitron.units import GIB, MIB

PARTS = ("errors", "memory", "time")
CONSOLE = Console(width=120)


def missing(method: Method) -> bool:
    """Whether its package is not installed."""
    return method.needs is not None and importlib.util.find_spec(method.needs.replace("-", "_")) is None


def chosen_methods(args: argparse.Namespace) -> list[str]:
    """Names of what runs, the floor first; all of it must be installed."""
    names = [name for name in METHODS if name in (args.only or METHODS)]
    names = [name for name in names if args.device != "cpu" or not METHODS[name].cuda]
    lacking = sorted({METHODS[name].needs or "" for name in names if missing(METHODS[name])})
    if lacking:
        raise SystemExit(
            f"every peer must be installed, {' and '.join(lacking)} is not: pip install --constraint constraints.txt "
            f"-e '.[peers]' (`make bench-kd` does), or leave peers out with --only floor minitron"
        )
    return names


def make_inputs(args: argparse.Namespace, tokens: int) -> Inputs:
    """Inputs of the timings."""
    dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
    return random_inputs(tokens, args.hidden, args.vocab, device=args.device, dtype=dtype, noise=0.05)


def lack_of_memory(method: Method, tokens: int, args: argparse.Namespace) -> str | None:
    """Why it cannot run beside what is there now; None where it can."""
    needed = 4 * (method.logits(tokens, args.vocab) + args.vocab * args.hidden) + GIB
    free = psutil.virtual_memory().available if args.device == "cpu" else torch.cuda.mem_get_info()[0]
    if needed <= free:
        return None
    return f"{method.title} at {tokens} tokens: needs about {needed / GIB:.1f} GiB, {free / GIB:.1f} are free"


def timed(work: Callable[[], object], device: str) -> tuple[float, float]:
    """Wall and CPU seconds."""
    if device != "cpu":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def run_once(loss: Loss, inputs: Inputs, device: str) -> tuple[float, float]:
    """Wall and CPU seconds of a pass; its gradients are dropped outside of them."""
    taken = timed(lambda: loss(inputs), device)
    inputs.take_grads()
    return taken


def round_order(names: list[str]) -> list[str]:
    """The floor on both sides of minitron, then the others, then the floor."""
    others = [name for name in names if name not in ("floor", "minitron")]
    first = ["floor", "minitron"] if "minitron" in names else []
    return [*first, "floor", *others, "floor"]


def ratios_to_floor(order: list[str], taken: list[tuple[float, float]]) -> dict[str, list[float]]:
    """Method -> its wall and CPU seconds, and the ratios of both to the mean of the floors next to it."""
    floors = [place for place, name in enumerate(order) if name == "floor"]
    found = {"floor": [*(statistics.mean(taken[place][clock] for place in floors) for clock in (0, 1)), 1.0, 1.0]}
    for place, name in enumerate(order):
        if name != "floor":
            beside = max(f for f in floors if f < place), min(f for f in floors if f > place)
            bases = [statistics.mean(taken[f][clock] for f in beside) for clock in (0, 1)]
            found[name] = [*taken[place], taken[place][0] / bases[0], taken[place][1] / bases[1]]
    return found


def measure_times(names: list[str], args: argparse.Namespace, tokens: int) -> list[dict[str, Any]]:
    """Rows of the table, at one number of tokens."""
    inputs = make_inputs(args, tokens)
    names = [name for name in names if not reported(lack_of_memory(METHODS[name], tokens, args))]
    losses = {name: METHODS[name].make(args.chunk) for name in {*names, "floor"}}
    few = inputs.first(min(tokens, 1024 if args.device == "cpu" else tokens))
    for loss in losses.values():
        run_once(loss, few, args.device)
    run_once(losses["floor"], inputs, args.device)
    order = round_order(names)
    rounds: dict[str, list[list[float]]] = {}
    for _ in range(args.rounds):
        taken = [run_once(losses[name], inputs, args.device) for name in order]
        for name, numbers in ratios_to_floor(order, taken).items():
            rounds.setdefault(name, []).append(numbers)
    return [
        {
            "method": name,
            "tokens": tokens,
            "seconds": wall_s,
            "cpu_seconds": cpu_s,
            "wall_ratios": wall,
            "cpu_ratios": cpu,
        }
        for name in losses
        for wall_s, cpu_s, wall, cpu in [map(list, zip(*rounds[name], strict=True))]
    ]


def reported(reason: str | None) -> bool:
    """Says why something is skipped, if it is."""
    if reason:
        CONSOLE.print(f"skipped: {reason}", highlight=False)
    return reason is not None


def memory_beyond(name: str, args: argparse.Namespace, tokens: int) -> int:
    """Peak bytes of one pass in this process, less inputs and gradients."""
    inputs, loss = make_inputs(args, tokens), METHODS[name].make(args.chunk)
    small = random_inputs(8, 16, 64, device=args.device, dtype=inputs.student_ND.dtype, noise=0.1)
    run_once(loss, small, args.device)
    if args.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if args.device != "cpu" else psutil.Process().memory_info().rss
    loss(inputs)
    grads = inputs.take_grads() or [inputs.student_ND.float(), inputs.student_head_VD.float()]
    given = sum(grad.numel() * grad.element_size() for grad in grads)
    return peak_bytes(args.device) - before - given


def peak_bytes(device: str) -> int:
    """Most memory that this process held: on the GPU, or resident."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def measure_memory(names: list[str], args: argparse.Namespace, tokens: int) -> list[dict[str, Any]]:
    """Rows of the table, at one number of tokens, each from a fresh process."""
    rows = []
    for name in names:
        if reported(lack_of_memory(METHODS[name], tokens, args)):
            continue
        command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name, str(tokens)]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append({"method": name, "tokens": tokens, "bytes": int(answer.split()[-1])})
    return rows


def measure_errors(names: list[str], args: argparse.Namespace) -> tuple[float, list[dict[str, Any]]]:
    """The KL in float64 and the rows of the table."""
    inputs = random_inputs(512, 256, 32768, device=args.device, dtype=torch.bfloat16, noise=0.035)
    exact = inputs.to(torch.float64)
    log_q_NV = torch.log_softmax(exact.student_ND @ exact.student_head_VD.T, dim=-1)
    log_p_NV = torch.log_softmax(exact.teacher_ND @ exact.teacher_head_VD.T, dim=-1)
    divergence = (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum() / len(log_q_NV)
    divergence.backward()
    truth = exact.take_grads()
    rows = []
    for name in names:
        if name.startswith("floor"):
            continue
        found = METHODS[name].make(args.chunk)(inputs)
        assert found is not None
        errors = [
            float((grad.double() - true).norm() / true.norm())
            for grad, true in zip(inputs.take_grads(), truth, strict=True)
        ]
        rows.append({"method": name, "loss": abs(float(found) / float(divergence.detach()) - 1), "gradients": errors})
    return float(divergence.detach()), rows


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def show(title: str, columns: tuple[str, ...], rows: list[list[str]]) -> None:
    """A table whose first column is text."""
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    CONSOLE.print(table)


def show_times(rows: list[dict[str, Any]], args: argparse.Namespace, tokens: int) -> None:
    """The table of times at one number of tokens; CPU seconds say nothing of a GPU."""
    on_cpu = args.device == "cpu"
    show(
        f"Time, {tokens} tokens, {args.rounds} rounds",
        ("method", "median", "over the floor, wall", *(["over the floor, CPU"] if on_cpu else [])),
        [
            [
                METHODS[row["method"]].title,
                f"{statistics.median(row['seconds']):.3f} s",
                spread(row["wall_ratios"]),
                *([spread(row["cpu_ratios"])] if on_cpu else []),
            ]
            for row in sorted(rows, key=lambda row: list(METHODS).index(row["method"]))
        ],
    )


def versions(names: list[str]) -> dict[str, str]:
    """What ran."""
    packages = {"torch", "nvidia-modelopt", *(METHODS[name].needs for name in names)} - {None}
    return {package: importlib.metadata.version(package) for package in sorted(packages)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=131072)
    parser.add_argument("--chunk", type=int, default=DEFAULT_CHUNK_TOKENS, help="minitron's tokens of a chunk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(METHODS), help="methods; the floor is timed with any")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="tables")
    parser.add_argument("--json", type=Path, help="where all numbers are written")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(memory_beyond(args.memory_of[0], args, int(args.memory_of[1])))
        return
    names = chosen_methods(args)
    found: dict[str, Any] = {"versions": versions(names), "threads": torch.get_num_threads(), "arguments": sys.argv[1:]}
    CONSOLE.print(f"{found['versions']}, {found['threads']} threads", highlight=False)
    if "errors" in args.parts:
        divergence, found["errors"] = measure_errors(names, args)
        show(
            f"Error with bf16 inputs, KL {divergence:.4f}",
            ("method", "loss", "gradient of hidden states", "gradient of head"),
            [
                [METHODS[row["method"]].title, *(f"{error:.1e}" for error in (row["loss"], *row["gradients"]))]
                for row in found["errors"]
            ],
        )
    if "memory" in args.parts:
        found["memory"] = [row for tokens in args.tokens for row in measure_memory(names, args, tokens)]
        peaks = {(row["method"], row["tokens"]): f"{row['bytes'] / MIB:,.0f} MiB" for row in found["memory"]}
        show(
            "Peak memory beyond inputs and gradients",
            ("method", *(f"{tokens} tokens" for tokens in args.tokens)),
            [[METHODS[n].title, *(peaks.get((n, tokens), "-") for tokens in args.tokens)] for n in names],
        )
    if "time" in args.parts:
        found["times"] = []
        for tokens in args.tokens:
            rows = measure_times(names, args, tokens)
            show_times(rows, args, tokens)
            found["times"] += rows
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
