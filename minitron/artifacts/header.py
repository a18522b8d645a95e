"""An artifact's header: what made it, from which inputs, and which files belong to it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from minitron.errors import ArtifactError

HEADER_FILE = "artifact.json"
MARKER_FILE = "artifact.inputs"  # in a folder that is being written: the hash of its inputs
STATE_FOLDER = "state"  # in a folder that is being written: what an interrupted attempt resumes from
OLDER_FILES = ("artefact.json", "artefact.inputs")  # header and marker of older versions


class ArtifactHeader(BaseModel):
    """What an artifact folder says of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str = Field(description="Name of the stage or command that made it.")
    inputs_hash: str = Field(description="SHA-256 over the stage's settings and the hashes of what it read.")
    inputs: dict[str, object] = Field(description="The settings and hashes that were hashed.")
    seed: int = Field(description="Seed of the run.")
    versions: dict[str, str] = Field(description="Versions of the packages that made it.")
    written_at: str = Field(description="Time of completion, UTC, ISO 8601.")
    files: dict[str, int] = Field(description="Path inside the folder -> size in bytes.")


def hash_inputs(inputs: Mapping[str, object]) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys.

    >>> hash_inputs({"a": 1, "b": 2}) == hash_inputs({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def read_header(folder: Path) -> ArtifactHeader | None:
    """The header of a finished artifact, or None where there is none or a file that it lists is missing or resized.

    Files that it does not list, such as a note that somebody left, do not invalidate it.
    """
    try:
        header = ArtifactHeader.model_validate_json((folder / HEADER_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    return header if header.files.items() <= list_files(folder).items() else None


def list_files(folder: Path) -> dict[str, int]:
    """Path inside a folder -> size in bytes, of its files but header and marker."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (HEADER_FILE, MARKER_FILE)
    }


def require_current(folder: Path) -> None:
    """Refuses a folder that a version of minitron wrote which this one cannot read.

    Raises:
        ArtifactError: It holds a result, or an interrupted one, of such a version.
    """
    if any((folder / name).is_file() for name in OLDER_FILES):
        raise ArtifactError(
            f"{folder} was written by an older version of minitron, whose results cannot be resumed; use a new output "
            "folder"
        )


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """A line for each value that differs, by its path.

    >>> differences({"seed": 0, "settings": {"a": 1}}, {"seed": 0, "settings": {"a": 2}})
    ['settings.a was 1 and is 2']
    """
    found = []
    for key in sorted({*before, *now}):
        old, new = _plain(before.get(key)), _plain(now.get(key))
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += [f"{key}.{line}" for line in differences(old, new)]
        elif old != new:
            found.append(f"{key} was {old} and is {new}")
    return found


def _plain(value: object) -> object:
    return json.loads(json.dumps(value, default=str))
