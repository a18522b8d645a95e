"""Where a source of text is stored: a file, files by a pattern, a folder of shards, a saved dataset, or the hub."""

import difflib
import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.paths import can_be_path
from minitron.data.formats.saved_dataset import is_saved_dataset
from minitron.data.formats.suffixes import KNOWN_FILES, file_format
from minitron.errors import DataError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # owner/name
KINDS = f"{KNOWN_FILES}, a folder of such files, a folder by save_to_disk, or a dataset's owner/name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """What a source's name was found to be.

    Attributes:
        source: The name.
        files: Files to read one after the other; none of a saved dataset or of one on the hub.
        folder: Folder of a saved dataset.
    """

    source: str
    files: tuple[Path, ...] = ()
    folder: Path | None = None

    @property
    def on_hub(self) -> bool:
        """Whether it is the name of a dataset on the hub."""
        return not self.files and self.folder is None

    @property
    def contents(self) -> tuple[Path, ...]:
        """Every file whose bytes decide what is read; none of a dataset on the hub."""
        if self.folder is None:
            return self.files
        return tuple(sorted(path for path in self.folder.rglob("*") if path.is_file()))


def is_local(source: str, folder: Path = Path()) -> bool:
    """Whether a source is meant to be on this machine; anything else is a dataset's `owner/name`.

    >>> is_local("data/train.jsonl"), is_local("data/*.csv"), is_local("texts"), is_local("allenai/c4.v1")
    (True, True, True, False)
    """
    return file_format(source) is not None or not HUB_NAME.fullmatch(source) or (folder / source).exists()


def locate(source: str) -> Location:
    """Finds what a source's name stands for; nothing is read and no other machine is asked.

    Raises:
        DataError: Nothing is there, or nothing that could be read.
    """
    path = Path(source)
    if not can_be_path(source):
        raise DataError(f"a text source must be {KINDS}, got {source!r}, which no file can be called")
    if path.is_file():
        return Location(source=source, files=(_known(path),))
    if path.is_dir():
        if is_saved_dataset(path):
            return Location(source=source, folder=path)
        return Location(source=source, files=_shards(source, path))
    if not is_local(source):
        return Location(source=source)
    if glob.has_magic(source):
        matches = sorted(found for found in map(Path, glob.glob(source, recursive=True)) if found.is_file())
        if not matches:
            raise DataError(f"a pattern must match a file, {source} matches none")
        return Location(source=source, files=_of_one_format(source, [_known(found) for found in matches]))
    if file_format(path) is not None:
        raise DataError(f"a text source must be a file that is there, {source} is not{_nearest(path)}")
    raise DataError(f"a text source must be {KINDS}, got {source}, which is not there{_nearest(path)}")


def _known(path: Path) -> Path:
    if file_format(path) is None:
        raise DataError(f"a text source must be {KINDS}, got {path}")
    return path


def _shards(source: str, folder: Path) -> tuple[Path, ...]:
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    found = [path for path in visible if path.is_file() and file_format(path) is not None]
    if not found:
        names = ", ".join(path.name for path in visible[:5]) or "nothing"
        raise DataError(f"a folder of text must hold {KNOWN_FILES}, {source} holds {names}")
    return _of_one_format(source, found)


def _of_one_format(source: str, files: Iterable[Path]) -> tuple[Path, ...]:
    # A list of files or a card beside the shards is told apart from text by nobody but the user.
    found = tuple(files)
    by_format = {file_format(path): path.name for path in found}
    if len(by_format) > 1:
        raise DataError(
            f"shards must be of one format, {source} has {' and '.join(by_format.values())}; name those to read by a "
            "pattern, as in data/*.jsonl"
        )
    return found


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    near = difflib.get_close_matches(path.name, [found.name for found in path.parent.iterdir()], n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
