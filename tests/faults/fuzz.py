"""Gives every reader of foreign files thousands of hostile inputs: `python -m tests.faults.fuzz`, or `make fuzz`.

Prints a line a reader: inputs, seconds, the slowest one, and how the inputs ended. Each input has a number and is the
same in every run; `--only NAME --first N --inputs 1` runs one again. Exit code 1 where a reader did anything but read
or refuse in lines of at most 500 characters, within 5 s and 1 GiB.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from tests.faults.fuzzing.outcome import bounded_memory
from tests.faults.fuzzing.target import Target
from tests.faults.fuzzing.targets import all_targets, outcomes

INPUTS = 1_300  # a reader
SHOWN = 5  # faults of one reader that are printed


def main() -> int:
    """Runs the readers that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=INPUTS, help=f"inputs a reader ({INPUTS})")
    parser.add_argument("--first", type=int, default=0, help="number of the first one (0)")
    parser.add_argument("--only", default="", help="readers whose names hold this")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    started, total, faults = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder, bounded_memory():
        for target in all_targets(Path(folder)):
            if args.only in target.name:
                inputs = max(1, round(args.inputs * target.share))
                faults += _report(target, range(args.first, args.first + inputs))
                total += inputs
    print(f"{total:,} inputs in {time.monotonic() - started:.0f} s, {faults} faults")
    return min(faults, 1)


def _report(target: Target, numbers: range) -> int:
    started, kinds, slowest = time.monotonic(), Counter[str](), 0.0
    faults: list[str] = []
    for number, outcome in outcomes(target, numbers):
        kinds[outcome.kind] += 1
        slowest = max(slowest, outcome.seconds)
        if outcome.fault:
            faults.append(f"  input {number}: {outcome.fault}")
    ended = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
    seconds = time.monotonic() - started
    print(f"{target.name}: {len(numbers):,} in {seconds:.1f} s, slowest {slowest * 1000:.0f} ms: {ended}", flush=True)
    unlike = {fault.partition(": ")[2].partition(": '")[0]: fault for fault in reversed(faults)}
    print("\n".join(list(unlike.values())[:SHOWN]), end="\n" if faults else "", flush=True)
    return len(faults)


if __name__ == "__main__":
    sys.exit(main())
