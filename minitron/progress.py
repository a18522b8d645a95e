"""Progress bars on stderr for long loops, quiet when stderr is no terminal."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

T = TypeVar("T")


def progress_bar(*, of_bytes: bool = False) -> Progress:
    """A progress display to be used in a `with`; it draws nothing when stderr is no terminal.

    Args:
        of_bytes: What is counted are bytes, shown in units of theirs with a speed.
    """
    counted = (DownloadColumn(binary_units=True), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(),)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *counted,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def track(items: Iterable[T], description: str, *, total: int) -> Iterator[T]:
    """Yields the items while a bar counts them."""
    with progress_bar() as progress:
        yield from progress.track(items, total=total, description=description)
