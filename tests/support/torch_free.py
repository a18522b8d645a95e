"""Commands in a process of their own, which says of each whether torch was loaded when it ended."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAM = """
import contextlib, io, json, sys, time
from minitron.cli.main import main

for argv in json.load(sys.stdin):
    err, started = io.StringIO(), time.process_time()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(argv)
        except SystemExit as error:
            code = error.code
    heavy = [name for name in ("torch", "transformers", "datasets", "matplotlib") if name in sys.modules]
    print(json.dumps([code, err.getvalue(), heavy, time.process_time()]), flush=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code.
        err: What it printed on stderr.
        heavy: Heavy packages that were loaded by then.
        cpu_seconds: CPU time of the process until then, start-up included.
    """

    code: int
    err: str
    heavy: list[str]
    cpu_seconds: float


def run_commands(commands: Sequence[Sequence[str]], folder: Path, *, before: str = "") -> list[Ended]:
    """Runs commands one after another in one process, in a folder, after a program of the caller's."""
    ended = subprocess.run(
        [sys.executable, "-c", before + PROGRAM],
        input=json.dumps(commands),
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    return [Ended(code=code, err=err, heavy=heavy, cpu_seconds=seconds) for code, err, heavy, seconds in rows]
