"""The progress file of an unfinished output folder: what it is made from, and which of its files are whole.

Of several processes that write a folder each has a progress file of its own, and the first one the lock and the word:
it takes over what all of an interrupted call, of however many processes, had recorded.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from minitron.artifacts.atomic import PARTIAL, sync_folder
from minitron.artifacts.finished import require_free
from minitron.artifacts.json_files import read_json
from minitron.artifacts.locks import locked, require_unlocked_ranks
from minitron.artifacts.resume import SavedState, record_file
from minitron.distributed import Ranks
from minitron.errors import ArtifactError, CheckpointError

logger = logging.getLogger(__name__)

RECORD = "prune.progress"
JOURNAL_FILE = record_file(Path(), RECORD).name
CONFIG_FILE = "config.json"


class Journal:
    """The progress of a folder, saved after every file.

    Args:
        folder: The output folder.
        inputs_hash: Hash of everything that the files follow from.
        files: Every name that may be written.
        rank: Number of the process whose file it is.
    """

    def __init__(self, folder: Path, inputs_hash: str, files: Sequence[str], rank: int = 0) -> None:
        self.folder = folder
        self._name = f"{RECORD}-{rank}" if rank else RECORD
        self._state = SavedState(folder, {"inputs_hash": inputs_hash})
        self._files, self._whole = list(files), dict[str, object]()
        self._lock = threading.Lock()

    def load(self) -> bool:
        """Takes over the progress of an interrupted call with the same inputs; whether there is one.

        The files of its other processes are removed.
        """
        found = self._state.load_record(RECORD)
        self._whole = {}
        if found is None:
            return False
        others = [path.stem for path in _files_of_others(self.folder) if path.suffix == ".json"]
        for record in (found, *(self._state.load_record(name) for name in others)):
            whole = None if record is None else record["whole"]
            self._whole |= whole if isinstance(whole, dict) else {}
        self.save()
        self._forget_others()
        return True

    def save(self) -> None:
        """Replaces the progress file."""
        self._state.save_record(self._name, {"files": self._files, "whole": self._whole})

    def record(self, name: str) -> None:
        """Records that a file of the folder is whole; it must have been synced and have its final name."""
        with self._lock:
            self._whole[name] = (self.folder / name).stat().st_mtime_ns
            self.save()

    def has(self, name: str, size_bytes: int) -> bool:
        """Whether a file was recorded as whole and has not changed since."""
        path = self.folder / name
        if name not in self._whole or not path.is_file():
            return False
        status = path.stat()
        return status.st_size == size_bytes and status.st_mtime_ns == self._whole[name]

    def clear(self) -> None:
        """Records that no file is whole, for all processes."""
        self._whole.clear()
        self.save()
        self._forget_others()

    def end(self) -> None:
        """Removes the progress files of all processes."""
        self._forget_others()  # before the first one's, without which nothing is resumed
        (self.folder / JOURNAL_FILE).unlink()
        sync_folder(self.folder)

    def _forget_others(self) -> None:
        for path in _files_of_others(self.folder):
            path.unlink()


def is_unfinished(folder: Path) -> bool:
    """Whether a folder holds interrupted work that a call with the same inputs resumes."""
    return (folder / JOURNAL_FILE).is_file()


@contextmanager
def resumable(folder: Path, *, inputs_hash: str, files: Sequence[str], ranks: Ranks | None = None) -> Iterator[Journal]:
    """Opens an output folder that is new, empty, or holds unfinished work of ours, and ends its progress file.

    Work with other inputs is cleared with a warning. When the block fails, whole files stay for the next call, and
    `config.json`, without which no folder opens as a checkpoint, is removed. Several processes open it together, each
    with a progress file of its own; the first one must leave the block last.

    Args:
        folder: The output folder; made if need be.
        inputs_hash: Hash of everything that the files follow from.
        files: Every name that the block may write (each also with `.partial`).
        ranks: The processes; this one alone when None.

    Raises:
        CheckpointError: The folder holds something else.
        ArtifactError: It is not empty, or another process is writing it.
    """
    ranks = ranks or Ranks.alone()
    if not ranks.is_main:
        ranks.barrier()  # behind it the folder is the first process's, and clear of what does not belong
        with locked(folder, rank=ranks.rank):
            yield Journal(folder, inputs_hash, files, ranks.rank)
        return
    if not is_unfinished(folder):
        require_free(folder)
    with locked(folder):
        require_unlocked_ranks(folder)
        folder.mkdir(parents=True, exist_ok=True)
        journal = Journal(folder, inputs_hash, files)
        _claim(journal, files)
        ranks.barrier()
        try:
            yield journal
        except BaseException:
            (folder / CONFIG_FILE).unlink(missing_ok=True)
            raise
        journal.end()


def _claim(journal: Journal, files: Sequence[str]) -> None:
    folder = journal.folder
    ours = {name + end for name in (*files, *_files_before(folder), JOURNAL_FILE) for end in ("", PARTIAL)}
    ours |= {path.name for path in _files_of_others(folder)}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in ours)
    if foreign:
        raise CheckpointError(f"the output folder must hold unfinished work alone, {folder} also holds {foreign[0]}")
    # First of all: what is about to be unfinished must not open as a checkpoint.
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    if not journal.load():
        for path in folder.iterdir():
            path.unlink()
        journal.save()


def _files_before(folder: Path) -> list[str]:
    """The names that an interrupted call, whatever its inputs were, may have written."""
    try:
        record = read_json(folder / JOURNAL_FILE).get("record")
    except ArtifactError:
        return []
    names = record.get("files") if isinstance(record, dict) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _files_of_others(folder: Path) -> list[Path]:
    """The progress files of processes that are not the first one, those included that a kill left half written."""
    return sorted(folder.glob(f"{RECORD}-*"))
