"""JSON lines: an object a line."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from minitron.artifacts.json_files import JsonFaultError, JsonObject, parse_json
from minitron.data.formats.encoding import open_text
from minitron.data.formats.row import Row
from minitron.errors import DataError


def read_jsonl(path: Path, columns: Sequence[str] = ()) -> Iterator[Row]:
    """Yields the object of each line that is not blank.

    Raises:
        DataError: The file is missing, not UTF-8, or a line is not a JSON object.
    """
    with open_text(path) as lines:
        yield from read_lines(path, lines)


def read_lines(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    """Yields the objects of lines that were opened before."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield Row(_parse(line, where), where)


def _parse(line: str, where: str) -> JsonObject:
    try:
        record = parse_json(line)
    except JsonFaultError as error:
        raise DataError(f"each line must be a JSON object, {where} {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"each line must be a JSON object, {where} holds a {type(record).__name__}")
    return record
