"""Hashes of files: computed once per content, kept in memory, and for large files in the user's cache folder.

A hash is used again as long as the file's size, time of change and inode stay the same. The cache file is
`minitron/hashes.json` in `$XDG_CACHE_HOME`, or in `~/.cache` where that is not set; removing it costs time alone.
"""

import hashlib
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.json_files import read_json, write_json
from minitron.artifacts.locks import locked
from minitron.errors import ArtifactError, DataError
from minitron.units import MIB

logger = logging.getLogger(__name__)

CHUNK_BYTES = 16 * MIB  # read at a time
KEPT_BYTES = MIB  # what is shorter is hashed in a millisecond and not worth an entry in the cache file
SETTLED_S = 2.0  # a file that changed later than this before may change again within one tick of its clock
MOST_ENTRIES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """A range of a file, and the state of the file in which it was hashed."""

    path: str
    start: int
    nbytes: int
    size: int
    mtime_ns: int
    inode: int

    def __str__(self) -> str:
        return json.dumps([self.path, self.start, self.nbytes, self.size, self.mtime_ns, self.inode])


_known: dict[str, str] = {}


def file_hash(path: Path, *, start: int = 0, nbytes: int | None = None) -> str:
    """SHA-256 of a file's contents, or of a range of them, in hexadecimal.

    Args:
        path: The file.
        start: First byte of the range.
        nbytes: Its length; to the end when None.

    Raises:
        DataError: There is no such file.
    """
    if not path.is_file():
        raise DataError(f"data file not found: {path}")
    key, changed_ns = _key_of(path, start, nbytes)
    name = str(key)
    if name not in _known and key.nbytes >= KEPT_BYTES:
        _known.update(_read_cache())
    if name not in _known:
        _known[name] = _digest(path, start, key.nbytes)
        settled = time.time_ns() - changed_ns > SETTLED_S * 1e9 and _key_of(path, start, nbytes)[0] == key
        if settled and key.nbytes >= KEPT_BYTES:
            _keep(name, _known[name])
    return _known[name]


def known_hashes() -> dict[str, str]:
    """All hashes that this process knows, for `learn_hashes` in another process."""
    return dict(_known)


def learn_hashes(hashes: dict[str, str]) -> None:
    """Takes over another process's hashes; files that are in another state here are hashed all the same."""
    _known.update(hashes)


def cache_file() -> Path:
    """Where hashes are kept between processes."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "minitron" / "hashes.json"


def _key_of(path: Path, start: int, nbytes: int | None) -> tuple[_Key, int]:
    status = path.stat()
    key = _Key(
        path=str(path.resolve()),
        start=start,
        nbytes=status.st_size - start if nbytes is None else nbytes,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        inode=status.st_ino,
    )
    return key, max(status.st_mtime_ns, status.st_ctime_ns if os.name == "posix" else 0)


def _digest(path: Path, start: int, nbytes: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        for left in range(nbytes, 0, -CHUNK_BYTES):
            digest.update(file.read(min(left, CHUNK_BYTES)))
    return digest.hexdigest()


def _read_cache() -> dict[str, str]:
    path = cache_file()
    if not path.is_file():
        return {}
    try:
        return {name: value for name, value in read_json(path).items() if isinstance(value, str)}
    except (ArtifactError, OSError) as error:
        logger.warning("%s cannot be read and is not used: %s", path, error)
        return {}


def _keep(name: str, value: str) -> None:
    path = cache_file()
    try:
        with locked(path):
            kept = {**_read_cache(), name: value}
            write_json(path, dict(list(kept.items())[-MOST_ENTRIES:]))
    except (ArtifactError, OSError) as error:  # another process is at it, or the home cannot be written
        logger.info("the hash of %s is not kept for later runs: %s", json.loads(name)[0], error)
