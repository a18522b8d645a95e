"""Atomic writes: a file is written under a temporary name, synced, and renamed into place."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"
READABLE = 0o644  # safetensors makes files that their owner alone can read


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside a file; what the block writes there replaces the file when it ends well.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "a.txt") as partial:
    ...         _ = partial.write_text("whole")
    ...     [(path.name, path.read_text()) for path in Path(folder).iterdir()]
    [('a.txt', 'whole')]
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    put_in_place(partial, path)


def put_in_place(partial: Path, path: Path) -> None:
    """Syncs a whole file and gives it its final name in the same folder, in place of an older one."""
    sync_file(partial)
    partial.replace(path)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, as UTF-8."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sync_file(path: Path) -> None:
    """Returns when a file's contents are on the disk."""
    # Windows syncs only what is open for writing.
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk; Windows cannot sync folders."""
    directory = getattr(os, "O_DIRECTORY", None)
    if directory is None:
        return
    descriptor = os.open(folder, os.O_RDONLY | directory)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path, *, leave_out: Collection[str] = ()) -> None:
    """Returns when a folder and all files and folders below it are on the disk.

    Args:
        folder: The folder.
        leave_out: Names right below it that are not synced.
    """
    for where, folders, files in os.walk(folder):
        if Path(where) == folder:
            folders[:] = [name for name in folders if name not in leave_out]
        for name in files:
            if not (Path(where) / name).is_symlink():
                sync_file(Path(where) / name)
        sync_folder(Path(where))
