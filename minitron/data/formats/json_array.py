"""A JSON file: an array of objects, which is held in memory whole, or an object a line, which is not."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from minitron.artifacts.json_files import JsonFaultError, parse_json
from minitron.data.formats.encoding import open_text
from minitron.data.formats.jsonl import read_lines
from minitron.data.formats.row import Row
from minitron.errors import DataError


def read_json(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yields the objects of a `.json` file.

    Raises:
        DataError: The file is missing, not UTF-8, or neither an array of objects nor an object a line.
    """
    with open_text(path) as file:
        begins: list[str] = []
        for line in file:
            begins.append(line)
            if line.strip():
                break
        if begins and begins[-1].lstrip().startswith("["):
            yield from _read_array(path, "".join(chain(begins, file)))
        else:
            yield from read_lines(path, chain(begins, file))


def _read_array(path: Path, text: str) -> Iterator[Row]:
    try:
        records = parse_json(text)
    except JsonFaultError as error:
        where = path if error.line is None else f"{path}:{error.line}"
        raise DataError(f"a JSON array must be whole, {where} {error}") from error
    assert isinstance(records, list)  # it begins with a bracket
    for number, record in enumerate(records):
        where = f"{path} row {number}"
        if not isinstance(record, dict):
            raise DataError(f"an array must hold JSON objects, {where} is a {type(record).__name__}")
        yield Row(record, where)
