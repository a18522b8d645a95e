"""Artifacts: folders that are written whole or not at all, each with a header that says what it was made from."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from minitron.artifacts.atomic import PARTIAL, sync_folder, sync_tree, write_text
from minitron.artifacts.header import (
    HEADER_FILE,
    MARKER_FILE,
    STATE_FOLDER,
    ArtifactHeader,
    hash_inputs,
    list_files,
    require_current,
)
from minitron.artifacts.json_files import as_json
from minitron.artifacts.locks import locked
from minitron.errors import ArtifactError

logger = logging.getLogger(__name__)

VERSIONED_PACKAGES = ("minitron", "torch", "transformers", "numpy")


def working_folder(folder: Path) -> Path:
    """Where an artifact is put together before it takes its place."""
    return folder.with_name(folder.name + PARTIAL)


@contextmanager
def write_artifact(folder: Path, *, stage: str, inputs: Mapping[str, object], seed: int) -> Iterator[Path]:
    """Gives a working folder that becomes the artifact when the block ends well.

    The working folder of an interrupted attempt with the same inputs is given again, so that a stage resumes from the
    files it left; one with other inputs is cleared first. On failure it stays and no artifact appears. What the stage
    keeps in `state/` to resume from is removed at the very end.

    Args:
        folder: The artifact's folder; one of before is replaced.
        stage: What makes it.
        inputs: Everything that the result depends on.
        seed: Seed of the run.

    Raises:
        ArtifactError: A folder in the way holds something that is not an artifact or is of an older version, or another
            process is writing it.
    """
    partial = working_folder(folder)
    _require_ours(folder, HEADER_FILE)
    _require_ours(partial, MARKER_FILE)
    with locked(folder):
        partial.mkdir(parents=True, exist_ok=True)
        _claim(partial, hash_inputs(inputs))
        yield partial
        sync_tree(partial, leave_out=(STATE_FOLDER,))
        shutil.rmtree(partial / STATE_FOLDER, ignore_errors=True)
        header = ArtifactHeader(
            stage=stage,
            inputs_hash=hash_inputs(inputs),
            inputs={**as_json(inputs)},
            seed=seed,
            versions={package: version(package) for package in VERSIONED_PACKAGES},
            written_at=datetime.now(UTC).isoformat(timespec="seconds"),
            files=list_files(partial),
        )
        write_text(partial / HEADER_FILE, header.model_dump_json(indent=2) + "\n")
        _replace(folder, partial)


def move_up(folder: Path) -> None:
    """Moves a folder's files into the folder it lies in, over older ones, and removes it."""
    for path in list(folder.iterdir()):
        path.replace(folder.parent / path.name)
    folder.rmdir()


def _claim(partial: Path, inputs_hash: str) -> None:
    """Marks a working folder with the hash of its inputs and clears what was left by other ones."""
    marker = partial / MARKER_FILE
    before = marker.read_text(encoding="utf-8") if marker.is_file() else ""
    if before == inputs_hash:
        return
    if before:
        logger.warning("%s is left from an interrupted attempt with other inputs and is cleared", partial)
    for path in partial.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path != marker:
            path.unlink()
    with marker.open("w", encoding="utf-8") as file:
        file.write(inputs_hash)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(partial)
    sync_folder(partial.parent)


def _replace(folder: Path, partial: Path) -> None:
    replaced = folder.with_name(folder.name + ".replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    (folder / MARKER_FILE).unlink(missing_ok=True)
    sync_folder(folder)
    sync_folder(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _require_ours(folder: Path, sign: str) -> None:
    require_current(folder)
    if folder.exists() and not (folder / sign).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder} is in the way and was not written by minitron; move it or choose another output")
