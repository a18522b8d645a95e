"""Artifacts: folders that are written whole or not at all, each with a header that says what it was made from."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from minitron.artifacts.atomic import sync_folder, sync_tree, write_text
from minitron.artifacts.locks import locked
from minitron.errors import ArtifactError

logger = logging.getLogger(__name__)

HEADER_FILE = "artifact.json"
MARKER_FILE = "artifact.inputs"
OLD_FILES = ("artefact.json", "artefact.inputs")  # what older versions called these two
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
    with locked(partial / MARKER_FILE, folder):
        _claim(partial, hash_inputs(inputs))
        yield partial
        _finish(folder, partial, stage=stage, inputs=inputs, seed=seed)


def require_free(output: Path) -> None:
    """Refuses an output folder that holds something.

    Raises:
        ArtifactError: It does.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ArtifactError(f"the output folder must be new or empty, {output} is not")


def finished_with(output: Path, inputs: Mapping[str, object], *, what: str) -> bool:
    """Whether an output is finished and was made from the same inputs, so that it is taken as it is.

    This is the one rule of all commands: a finished result of other inputs is refused, never overwritten.

    Args:
        output: The output folder.
        inputs: What it would be made from now.
        what: What the message calls it.

    Raises:
        ArtifactError: It is finished and was made from something else; a line for each difference.
    """
    header = read_header(output)
    if header is None:
        return False
    if header.inputs_hash == hash_inputs(inputs):
        logger.info("%s: finished before with the same inputs", output)
        return True
    lines = (
        f"the output folder must be new or empty, {what} in {output} are stale: {line}"
        for line in differences(header.inputs, inputs)
    )
    raise ArtifactError("\n".join(lines))


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """A line for each input that differs, by its path.

    >>> differences({"seed": 0, "settings": {"a": 1}}, {"seed": 0, "settings": {"a": 2}})
    ['settings.a was 1 and is 2']
    """
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += [f"{key}.{line}" for line in differences(old, new)]
        elif _plain(old) != _plain(new):
            found.append(f"{key} was {old} and is {new}")
    return found


def _plain(value: object) -> object:
    return json.loads(json.dumps(value, default=str))


def _claim(partial: Path, inputs_hash: str) -> None:
    marker = partial / MARKER_FILE
    before = marker.read_text(encoding="utf-8")
    if before and before != inputs_hash:
        logger.warning("%s is left from an interrupted attempt with other inputs and is cleared", partial)
        for path in partial.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != MARKER_FILE:
                path.unlink()
    with marker.open("r+", encoding="utf-8") as file:  # in place, since the file is locked
        file.truncate(0)
        file.write(inputs_hash)


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
    write_text(partial / HEADER_FILE, header.model_dump_json(indent=2) + "\n")
    sync_tree(partial)
    replaced = folder.with_name(folder.name + ".replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    sync_folder(folder.parent)
    (folder / MARKER_FILE).unlink()
    shutil.rmtree(replaced, ignore_errors=True)


def _list_files(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (HEADER_FILE, MARKER_FILE)
    }


def _require_ours(folder: Path, sign: str) -> None:
    if any((folder / name).is_file() for name in OLD_FILES):
        raise ArtifactError(f"{folder} was written by an older version of minitron; choose another output folder")
    if folder.exists() and not (folder / sign).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder} is in the way and was not written by minitron; move it or choose another output")
