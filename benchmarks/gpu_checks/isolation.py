"""A check in a process of its own: a fault, a full memory or an endless loop of one leaves the others alone."""

import importlib
import json
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpu_checks.row import Row

STDERR = 2  # file descriptor


def run_here(name: str, target: object, rows: Path) -> int:
    """Runs a check in this process, and writes a line of JSON for each row as it is measured.

    Args:
        name: The check.
        target: Where it runs (`gpu_checks.target.Target`).
        rows: File to write.

    Returns:
        1 where the check broke off, which a row says; its traceback goes to stderr.
    """
    with rows.open("w") as file:

        def add(row: Row) -> None:
            print(f"  {row.in_words()}", file=sys.stderr, flush=True)
            print(json.dumps(row.to_json()), file=file, flush=True)

        try:
            for row in importlib.import_module(f"gpu_checks.{name}").run(target):
                add(row)
        except Exception as error:  # whatever it is, the answer is a row: that is what the check is for
            traceback.print_exc()
            first = (str(error).splitlines() or [""])[0]
            add(Row(measured="the check", state="failed", note=f"{type(error).__name__}: {first}"))
            return 1
    return 0


def run_apart(command: Sequence[str], rows: Path, *, environment: Mapping[str, str], limit_s: float) -> list[Row]:
    """The rows of a command that writes them as `run_here` does, and a failed one where it did not end as it should.

    Args:
        command: What to run; its output goes to stderr.
        rows: The file that it writes.
        environment: Its environment.
        limit_s: Seconds after which it is ended.
    """
    try:
        code = subprocess.run(command, stdout=STDERR, timeout=limit_s, env=dict(environment), check=False).returncode
        ended = "" if code == 0 else f"its process ended by {f'signal {-code}' if code < 0 else f'code {code}'}"
    except subprocess.TimeoutExpired:
        ended = f"took longer than its share of the time, {limit_s:.0f} s"
    found = [_row(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    if ended and not (found and found[-1].state == "failed" and found[-1].measured == "the check"):
        found.append(Row(measured="the check", state="failed", note=ended))
    return found


def _row(line: str) -> Row:
    values = json.loads(line)
    del values["ratio"]
    return Row(**values)
