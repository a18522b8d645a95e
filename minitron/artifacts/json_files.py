"""JSON files: typed values, written atomically, and read with an error that names the file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

from pydantic import TypeAdapter, ValidationError

from minitron.artifacts.atomic import write_text
from minitron.errors import ArtifactError

RecordT = TypeVar("RecordT")

# What `json` reads and writes. Values are looked into by whoever knows the file's fields.
JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Writes a JSON object atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> JsonObject:
    """A JSON object from a file.

    Raises:
        ArtifactError: The file is missing, is not JSON, or holds something else than an object.
    """
    try:
        value: JsonValue = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} must be there, it is not") from error
    except ValueError as error:
        raise ArtifactError(f"{path} must be JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} must hold a JSON object, it holds a {type(value).__name__}")
    return value


def as_json(value: Mapping[str, object]) -> JsonObject:
    """A mapping as it comes back from a JSON file: tuples as lists, unknown types as their text.

    >>> as_json({"path": Path("a"), "sizes": (1, 2)})
    {'path': 'a', 'sizes': [1, 2]}
    """
    plain: JsonObject = json.loads(json.dumps(value, default=str))
    return plain


def read_record(path: Path, kind: type[RecordT]) -> RecordT:
    """A dataclass or mapping from a JSON file, every value checked against its type.

    Raises:
        ArtifactError: The file is missing, is not JSON, or a value is missing or of another type.
    """
    value = read_json(path)
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise ArtifactError(f"{path} must be as this version writes it, {where}: {fault['msg']}") from error
