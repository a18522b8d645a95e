"""Artifacts: folders that are written whole or not at all, each with a header that says what it was made from."""

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from minitron.errors import ArtifactError

logger = logging.getLogger(__name__)

HEADER_FILE = "artifact.json"
MARKER_FILE = "artifact.inputs"
VERSIONED_PACKAGES = ("minitron", "torch", "transformers", "numpy")


class ArtifactHeader(BaseModel):
    """What an artifact folder says of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str = Field(description="Name of the stage that made it.")
    inputs_hash: str = Field(description="SHA-256 over the stage's settings and the hashes of what it read.")
    inputs: dict[str, Any] = Field(description="The settings and hashes that were hashed.")
    seed: int = Field(description="Seed of the run.")
    versions: dict[str, str] = Field(description="Versions of the packages that made it.")
    written_at: str = Field(description="Time of completion, UTC, ISO 8601.")
    files: dict[str, int] = Field(description="Path inside the folder -> size in bytes.")


def hash_inputs(inputs: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys.

    >>> hash_inputs({"a": 1, "b": 2}) == hash_inputs({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def read_header(folder: Path) -> ArtifactHeader | None:
    """The header of a finished artifact, or None where there is none or a file that it lists is missing or resized.

    Files that it does not list, such as a note that somebody left, take nothing away from it.
    """
    try:
        header = ArtifactHeader.model_validate_json((folder / HEADER_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    found = _list_files(folder)
    return header if header.files.items() <= found.items() else None


def working_folder(folder: Path) -> Path:
    """Where an artifact is put together before it takes its place."""
    return folder.with_name(folder.name + ".partial")


@contextmanager
def write_artifact(folder: Path, *, stage: str, inputs: Mapping[str, Any], seed: int) -> Iterator[Path]:
    """Gives a working folder that becomes the artifact when the block ends well.

    The working folder of an interrupted attempt with the same inputs is given again, so that a stage which saves its
    state there can go on; one with other inputs is cleared first. On failure it stays and no artifact appears.

    Raises:
        ArtifactError: A folder in the way holds something that is not an artifact, or another process is writing it.
    """
    partial = working_folder(folder)
    _require_ours(folder, HEADER_FILE)
    _require_ours(partial, MARKER_FILE)
    partial.mkdir(parents=True, exist_ok=True)
    with locked(partial / MARKER_FILE, folder) as marker:
        _claim(partial, marker, hash_inputs(inputs))
        yield partial
        _finish(folder, partial, stage=stage, inputs=inputs, seed=seed)


@contextmanager
def locked(path: Path, folder: Path) -> Iterator[TextIO]:
    """Holds a lock file, open for reading and writing, against other processes that would write a folder.

    The system takes the lock away when the process ends, in whatever way.

    Raises:
        ArtifactError: Another process holds it.
    """
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtifactError(
                f"another process is writing {folder}; wait for it, stop it, or choose another output"
            ) from error
        yield file


def _claim(partial: Path, marker: TextIO, inputs_hash: str) -> None:
    marker.seek(0)
    before = marker.read()
    if before and before != inputs_hash:
        logger.warning("%s is left from an interrupted attempt with other inputs and is cleared", partial)
        for path in partial.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != MARKER_FILE:
                path.unlink()
    marker.truncate(0)
    marker.write(inputs_hash)
    marker.flush()


def _finish(folder: Path, partial: Path, *, stage: str, inputs: Mapping[str, Any], seed: int) -> None:
    header = ArtifactHeader(
        stage=stage,
        inputs_hash=hash_inputs(inputs),
        inputs=dict(inputs),
        seed=seed,
        versions={package: version(package) for package in VERSIONED_PACKAGES},
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        files=_list_files(partial),
    )
    (partial / HEADER_FILE).write_text(header.model_dump_json(indent=2) + "\n", encoding="utf-8")
    replaced = folder.with_name(folder.name + ".replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    (folder / MARKER_FILE).unlink()
    shutil.rmtree(replaced, ignore_errors=True)


def _list_files(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (HEADER_FILE, MARKER_FILE)
    }


def _require_ours(folder: Path, sign: str) -> None:
    if folder.exists() and not (folder / sign).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder} is in the way and was not written by minitron; move it or choose another output")
