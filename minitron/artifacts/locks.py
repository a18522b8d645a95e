"""Locks between processes that would write the same file or folder."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from minitron.errors import ArtifactError


def lock_file(target: Path, *, rank: int | None = None) -> Path:
    """The lock of a file or folder: a file beside it, so that the folder itself can be renamed while it is held.

    >>> lock_file(Path("run/score")).as_posix(), lock_file(Path("run/cache"), rank=1).as_posix()
    ('run/score.lock', 'run/cache.1.lock')
    """
    return target.with_name(f"{target.name}.lock" if rank is None else f"{target.name}.{rank}.lock")


@contextmanager
def locked(target: Path, *, rank: int | None = None) -> Iterator[None]:
    """Holds the lock of a file or folder while the block writes it; the lock's file is gone afterwards.

    The system releases the lock when the process ends, in whatever way; the file that a kill leaves locks nothing.

    Args:
        target: What is written.
        rank: Number of the process where each process of a run holds a lock of its own.

    Raises:
        ArtifactError: Another process holds it.
    """
    path = lock_file(target, rank=rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ArtifactError(
            f"another process is writing {target}; wait for it, stop it, or choose another output"
        ) from error
    try:
        yield
    finally:
        if os.name == "posix":  # while it is held: whoever locks the removed file notices and tries again
            path.unlink(missing_ok=True)
        lock.release()


def require_unlocked_ranks(target: Path) -> None:
    """Refuses a target of which a process of an earlier run holds a lock of its own; locks of dead ones are removed.

    Raises:
        ArtifactError: One still holds its lock.
    """
    name = re.compile(rf"{re.escape(target.name)}\.(\d+)\.lock")
    for path in sorted(target.parent.glob("*.lock")):
        found = name.fullmatch(path.name)
        if found is not None:
            with locked(target, rank=int(found[1])):
                pass
