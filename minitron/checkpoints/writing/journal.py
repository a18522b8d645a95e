"""The progress file of an unfinished output folder: what it is made from, and which of its files are whole.

One JSON object a line, appended and synced, so that a process that is killed at any moment leaves at worst a last line
without its end, which counts for nothing. The open file carries the lock that keeps a second process out.
"""

import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from minitron.artifacts.atomic import sync_folder
from minitron.artifacts.locks import locked
from minitron.errors import CheckpointError

logger = logging.getLogger(__name__)

JOURNAL_FILE = "prune.progress"
CONFIG_FILE = "config.json"
PARTIAL = ".partial"


class Journal:
    """The open progress file of a folder."""

    def __init__(self, folder: Path, file: BinaryIO) -> None:
        self.folder = folder
        self._file = file
        self._lock = threading.Lock()

    def record(self, name: str) -> None:
        """Says that a file of the folder is whole; it must have been synced and have its final name."""
        status = (self.folder / name).stat()
        self.append({"file": name, "mtime_ns": status.st_mtime_ns})

    def has(self, name: str, size_bytes: int) -> bool:
        """Whether a file was recorded as whole and is still as it was then."""
        path = self.folder / name
        recorded = {entry["file"]: entry["mtime_ns"] for entry in self.entries()[1:]}
        if name not in recorded or not path.is_file():
            return False
        status = path.stat()
        return status.st_size == size_bytes and bool(status.st_mtime_ns == recorded[name])

    def entries(self) -> list[dict[str, Any]]:
        """The whole lines: first what the folder is made from, then the files."""
        self._file.seek(0)
        return [json.loads(line) for line in self._file if line.endswith(b"\n")]

    def append(self, entry: dict[str, Any]) -> None:
        """Adds a line and syncs it; the end of a line that was cut off is dropped first."""
        with self._lock:
            self._file.seek(0)
            self._file.truncate(sum(len(line) for line in self._file if line.endswith(b"\n")))
            self._file.write(json.dumps(entry).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def clear(self) -> None:
        """Empties the journal."""
        self._file.truncate(0)


def is_unfinished(folder: Path) -> bool:
    """Whether a folder holds interrupted work that a call with the same inputs resumes."""
    return (folder / JOURNAL_FILE).is_file()


@contextmanager
def resumable(folder: Path, *, inputs_hash: str, files: Sequence[str]) -> Iterator[Journal]:
    """Opens an output folder that is new, empty, or holds unfinished work of ours, and ends its progress file.

    Work with other inputs is cleared, which is warned of. When the block fails, what is whole stays for the next call,
    and `config.json`, without which no folder opens as a checkpoint, is taken away.

    Args:
        folder: The output folder; made if need be.
        inputs_hash: Hash of everything that the files follow from.
        files: Every name that the block may write (each also with `.partial`).

    Raises:
        CheckpointError: The folder holds something else, or another process is writing it.
    """
    if folder.exists() and not is_unfinished(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"the output folder must be empty, {folder} is not")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / JOURNAL_FILE
    with locked(path, folder), path.open("a+b") as file:
        journal = Journal(folder, file)
        _claim(journal, inputs_hash, files)
        try:
            yield journal
        except BaseException:
            (folder / CONFIG_FILE).unlink(missing_ok=True)
            raise
        (folder / JOURNAL_FILE).unlink()
    sync_folder(folder)


def _claim(journal: Journal, inputs_hash: str, files: Sequence[str]) -> None:
    entries, folder = journal.entries(), journal.folder
    before = entries[0] if entries else {"inputs_hash": inputs_hash, "files": []}
    ours = {name + end for name in (*files, *before["files"]) for end in ("", PARTIAL)} | {JOURNAL_FILE}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in ours)
    if foreign:
        raise CheckpointError(f"the output folder must hold unfinished work alone, {folder} also holds {foreign[0]}")
    # First of all: what is about to be unfinished must not open as a checkpoint.
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    if entries and before["inputs_hash"] == inputs_hash:
        logger.info("%s: resuming interrupted work, %d files are whole", folder, len(entries) - 1)
        return
    if entries:
        logger.warning("%s is left from an interrupted attempt with other inputs and is cleared", folder)
    for path in folder.iterdir():
        if path.name != JOURNAL_FILE:
            path.unlink()
    journal.clear()
    journal.append({"inputs_hash": inputs_hash, "files": list(files)})
    sync_folder(folder)
