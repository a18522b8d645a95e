"""Locks on folders that are being written, held against other processes; the same on every platform."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from minitron.errors import ArtifactError


@contextmanager
def locked(path: Path, folder: Path) -> Iterator[None]:
    """Holds a lock file against other processes that would write a folder.

    The system takes the lock away when the process ends, in whatever way.

    Args:
        path: The lock file.
        folder: What the message calls the thing that is being written.

    Raises:
        ArtifactError: Another process holds it.
    """
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise ArtifactError(
            f"another process is writing {folder}; wait for it, stop it, or choose another output"
        ) from error
    try:
        yield
    finally:
        lock.release()
