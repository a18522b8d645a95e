"""Whether what is written for GPUs works on this one: a table of checks, and how fast they were, in ten minutes.

    make gpu-check                                            # installs what it needs, writes build/gpu-check.json
    python benchmarks/gpu_check.py --only kernel loss         # some of the checks
    python benchmarks/gpu_check.py --device cpu --tiny        # do the checks themselves run?

kernel      The fused kernel of the distillation loss against torch in fp64, and the whole loss in fp32 and bf16.
loss        Time and peak memory of the loss at a vocabulary of 131,072, beside its four matrix products alone and
            beside its inputs and gradients.
training    Training steps at the widths of the 12B and the 9B, with as many blocks as fit: tokens a second, MFU, and
            peak memory beside what a dry run says.
scoring     Layerwise scoring of a few blocks at the 12B's widths: seconds and peak memory.
mamba       mamba-ssm and causal-conv1d, where installed, against torch.

Each runs in a process of its own with a share of the time. Nothing uses the network; the weights are random. Exit code:
0, 1 where a check failed, 2 without a CUDA device.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from gpu_checks import CHECKS
from gpu_checks.answer import Answer
from gpu_checks.isolation import run_apart, run_here
from gpu_checks.machine import lacking_cuda, this_machine
from gpu_checks.row import Row
from gpu_checks.target import FULL, TINY, Target
from rich.console import Console

NO_DEVICE = 2


def environment(device: str) -> dict[str, str]:
    """Of the checks: no network, one device, and Triton's interpreter on a CPU, unless the user has set these."""
    ours = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "0"}
    return ours | ({"TRITON_INTERPRET": "1"} if device == "cpu" else {}) | dict(os.environ)


def run_all(args: argparse.Namespace) -> dict[str, list[Row]]:
    """Check -> its rows."""
    found: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for place, name in enumerate(args.only, start=1):
            limit_s = 60 * args.minutes * CHECKS[name].share
            title = f"[{place}/{len(args.only)}] {name}: {CHECKS[name].title}, {limit_s:.0f} s at most"
            print(title, file=sys.stderr, flush=True)
            rows = Path(folder) / name
            command = [sys.executable, __file__, "--device", args.device, "--check", name, "--rows", str(rows)]
            command += ["--tiny"] if args.tiny else []
            found[name] = run_apart(command, rows, environment=environment(args.device), limit_s=limit_s)
    return found


def parse(words: list[str]) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test, whose numbers say nothing of a device")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), help="checks")
    parser.add_argument("--minutes", type=float, default=10, help="that all may take together (10)")
    parser.add_argument("--json", type=Path, default=Path("build/gpu-check.json"), help="where the answer is written")
    parser.add_argument("--check", choices=list(CHECKS), help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    """Runs the checks; the exit code."""
    args = parse(words)
    if args.device == "cuda" and (reason := lacking_cuda()) is not None:
        print(reason, file=sys.stderr)
        return NO_DEVICE
    if args.check:
        return run_here(args.check, Target(device=args.device, sizes=TINY if args.tiny else FULL), args.rows)
    started = time.monotonic()
    rows = run_all(args)
    machine = this_machine(args.device)
    answer = Answer(machine=machine, tiny=args.tiny, seconds=time.monotonic() - started, rows=rows)
    answer.write(args.json)
    answer.show(Console(width=max(160, Console().width)))
    print(f"wrote {args.json}", file=sys.stderr)
    return int(answer.failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
