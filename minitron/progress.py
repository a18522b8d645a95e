"""Progress of long loops on stderr: a bar on a terminal, elsewhere a line now and then; both tell the time left."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

LINE_EVERY_S = 20.0
HIDDEN = "MINITRON_HIDE_PROGRESS"

T = TypeVar("T")


def progress_bar(*, of_bytes: bool = False) -> Progress:
    """A progress display to be used in a `with`. Of several processes the first one alone writes lines.

    Args:
        of_bytes: What is counted are bytes, shown in units of theirs with a speed.
    """
    if HIDDEN in os.environ:
        return Progress(console=Console(stderr=True), auto_refresh=False, disable=True)
    if not sys.stderr.isatty():
        return _ProgressLines(of_bytes=of_bytes)
    counted = (DownloadColumn(binary_units=True), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(),)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *counted,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def hide_progress() -> None:
    """Shows no progress from here on: in a process that works for another one, which shows its own."""
    os.environ[HIDDEN] = "1"


def track(items: Iterable[T], description: str, *, total: int) -> Iterator[T]:
    """Yields the items while a bar counts them."""
    with progress_bar() as progress:
        yield from progress.track(items, total=total, description=description)


class _ProgressLines(Progress):
    """Counts as a bar does and writes a line every `LINE_EVERY_S` seconds: `distill  45/120, 0:30 left`."""

    def __init__(self, *, of_bytes: bool) -> None:
        super().__init__(console=Console(stderr=True), auto_refresh=False, disable=True)
        self._of_bytes = of_bytes
        self._next_line = time.monotonic() + LINE_EVERY_S

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        if time.monotonic() >= self._next_line and int(os.environ.get("RANK", "0")) == 0:
            self._next_line = time.monotonic() + LINE_EVERY_S
            print(self._line(task_id), file=sys.stderr, flush=True)

    def _line(self, task_id: TaskID) -> str:
        task = self._tasks[task_id]
        left = task.time_remaining
        unit, name = (2**20, " MiB") if self._of_bytes else (1, "")
        total = "?" if task.total is None else f"{task.total / unit:,.0f}"
        times = "" if left is None else f", {timedelta(seconds=round(left))} left"
        return f"{task.description:<13} {task.completed / unit:,.0f}/{total}{name}{times}"
