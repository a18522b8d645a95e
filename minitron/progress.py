"""Progress of long loops on stderr: a bar on a terminal, elsewhere a line now and then; both tell the time left.

Whoever wants to know it, too, listens: `listening`.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far a loop is.

    Attributes:
        description: What is done.
        completed: Counted so far.
        total: Counted at the end; None where that is not known.
        seconds_left: By the speed so far; None where there is none yet.
    """

    description: str
    completed: float
    total: float | None
    seconds_left: float | None


Listener = Callable[[Step], None]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Calls a listener whenever a loop of this process advances; it is called often and must be quick."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def progress_bar(*, of_bytes: bool = False) -> Progress:
    """A progress display to be used in a `with`. Of several processes the first one alone writes lines.

    Args:
        of_bytes: What is counted are bytes, shown in units of theirs with a speed.
    """
    if HIDDEN in os.environ:
        return _Heard(console=Console(stderr=True), auto_refresh=False, disable=True)
    if not sys.stderr.isatty():
        return _ProgressLines(of_bytes=of_bytes)
    counted = (DownloadColumn(binary_units=True), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(),)
    return _Heard(
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


class _Heard(Progress):
    """Tells listeners of every change."""

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:  # the parent's arguments, by name
        super().update(task_id, **changes)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        if not _listeners or task_id not in self._tasks:
            return
        task = self._tasks[task_id]
        step = Step(
            description=task.description,
            completed=task.completed,
            total=task.total,
            seconds_left=task.time_remaining,
        )
        for listener in _listeners:
            listener(step)


class _ProgressLines(_Heard):
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
