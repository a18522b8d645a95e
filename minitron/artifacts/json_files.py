"""JSON files: typed values, written atomically, and read with an error that names the file.

All JSON that decides something is parsed here, as untrusted input: no key twice (readers differ in which they take), no
nesting or digits without end, no text that could not be written again.
"""

import json
import re
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

MOST_LEVELS = 64  # of lists and objects inside each other; code that walks a value calls itself at each
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonFaultError(ValueError):
    """Text that is no JSON to rely on; the message is a predicate, such as `is not JSON`.

    Args:
        predicate: The message.
        line: Where, from 1 on; None where that is not known.
    """

    def __init__(self, predicate: str, line: int | None = None) -> None:
        super().__init__(predicate)
        self.line = line


def parse_json(content: bytes | str) -> JsonValue:
    """The value of a JSON text.

    Raises:
        JsonFaultError: It is not UTF-8, not JSON, has a key twice in an object, is nested deeper than 64 levels, or
            holds half of a surrogate pair.

    >>> parse_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value: JsonValue = json.loads(text, object_pairs_hook=_unique)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonFaultError("is not UTF-8") from error
    except UnicodeEncodeError as error:
        raise JsonFaultError("holds half of a surrogate pair, which is no character") from error
    except JsonFaultError:
        raise
    except RecursionError as error:
        raise JsonFaultError("is not JSON that is read: it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise JsonFaultError(f"is not JSON: {error.msg}", error.lineno) from error
    except ValueError as error:  # a number of more digits than Python converts
        raise JsonFaultError(f"is not JSON that is read: {error}") from error
    if _is_deep(value):
        raise JsonFaultError(f"is not JSON that is read: it is nested deeper than {MOST_LEVELS} levels")
    return value


def parse_object(content: bytes | str) -> JsonObject:
    """The object of a JSON text.

    Raises:
        JsonFaultError: It is no JSON to rely on, or holds something else than an object.

    >>> parse_object('{"a": 1}')
    {'a': 1}
    """
    value = parse_json(content)
    if not isinstance(value, dict):
        raise JsonFaultError(f"is a JSON {type(value).__name__}, not an object")
    return value


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Writes a JSON object atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> JsonObject:
    """A JSON object from a file.

    Raises:
        ArtifactError: The file is missing, is not JSON to rely on, or holds something else than an object.
    """
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} must be there, it is not") from error
    except JsonFaultError as error:
        raise ArtifactError(f"{path} must be JSON, it {error}") from error
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
        raise not_as_written(path, error) from error


def first_fault(error: ValidationError) -> str:
    """Where the first value is that is not of its type, and what is the matter with it.

    >>> try:
    ...     TypeAdapter(dict[str, list[int]]).validate_python({"sizes": [1, "two"]})
    ... except ValidationError as error:
    ...     first_fault(error)
    'sizes.1: Input should be a valid integer, unable to parse string as an integer'
    """
    fault = error.errors(include_input=False)[0]
    return f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"


def not_as_written(path: Path, error: ValidationError) -> ArtifactError:
    """What is said of a file of this package's own that holds a value of another type."""
    return ArtifactError(f"{path} must be as this version writes it, {first_fault(error)}")


def _unique(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise JsonFaultError(f"has the key {twice!r} twice")
    return found


def _is_deep(value: JsonValue) -> bool:
    level: list[JsonValue] = [value]
    for _ in range(MOST_LEVELS):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [each for values in inner for each in values if isinstance(each, dict | list)]
        if not level:
            return False
    return True
