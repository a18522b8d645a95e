"""Documents of text from a file or a dataset of the Hugging Face hub, one string each."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from minitron.artifacts.json_files import JsonObject
from minitron.errors import DataError

TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet")
PARQUET_ROWS = 1024  # held as Python strings at a time


def is_text_file(source: str) -> bool:
    """Whether a text source is a file; anything else is the name of a dataset, which may hold dots.

    >>> is_text_file("data/train.jsonl"), is_text_file("allenai/c4.v1")
    (True, False)
    """
    return Path(source).suffix in TEXT_SUFFIXES


def read_documents(source: str, *, field: str = "text", split: str = "train") -> Iterator[str]:
    """Yields the documents of a text source in their stored order.

    Args:
        source: A `.txt` file (one document, or several separated by lines holding only `---`), a `.jsonl` file
            (one object a line), a `.parquet` file, or the name of a dataset on the Hugging Face hub.
        field: The column that holds the text in `.jsonl`, `.parquet` and named datasets.
        split: The split to read from a named dataset.

    Raises:
        DataError: The file is missing, empty, malformed, or lacks the field.
    """
    count = 0
    for document in _read(source, field, split):
        count += 1
        yield document
    if count == 0:
        raise DataError(f"a text source must hold at least one document, {source} holds none")


def _read(source: str, field: str, split: str) -> Iterator[str]:
    path = Path(source)
    if path.suffix == ".txt":
        yield from _read_txt(path)
    elif path.suffix == ".jsonl":
        yield from (_text_of(record, field, f"{path}:{line}") for line, record in read_jsonl(path))
    elif path.suffix == ".parquet":
        yield from _read_parquet(path, field)
    elif path.exists():
        raise DataError(f"a text source must be {', '.join(TEXT_SUFFIXES)} or a dataset name, got {source}")
    else:
        yield from _read_dataset(source, field, split)


def read_jsonl(path: Path) -> Iterator[tuple[int, JsonObject]]:
    """Yields (line number from 1, object) for each non-blank line of a JSON-lines file.

    Raises:
        DataError: The file is missing or a line is not a JSON object.
    """
    _require_file(path)
    with path.open(encoding="utf-8") as lines, _reporting_encoding(path):
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"each line must be a JSON object, {path}:{number} is not: {error.msg}") from error
            if not isinstance(record, dict):
                raise DataError(f"each line must be a JSON object, {path}:{number} holds a {type(record).__name__}")
            yield number, record


def _read_txt(path: Path) -> Iterator[str]:
    _require_file(path)
    with path.open(encoding="utf-8") as file, _reporting_encoding(path):
        for part in _split(file):
            if part.strip():
                yield part


def _split(lines: Iterable[str]) -> Iterator[str]:
    part: list[str] = []
    for line in lines:
        if line == "---\n" and part:  # the line break before it belongs to the separator, too
            yield "".join(part)[:-1]
            part = []
        else:
            part.append(line)
    yield "".join(part)


def _read_parquet(path: Path, field: str) -> Iterator[str]:
    import pyarrow.parquet as pq  # 0.1 s to import, needed for this one format
    from pyarrow import ArrowInvalid

    _require_file(path)
    try:
        table = pq.ParquetFile(path)
    except ArrowInvalid as error:
        raise DataError(f"a .parquet file must be one that pyarrow reads, {path} is not: {error}") from error
    if field not in table.schema_arrow.names:
        raise DataError(f"{path} must have a column {field!r}, it has {', '.join(table.schema_arrow.names)}")
    batches = table.iter_batches(PARQUET_ROWS, columns=[field])
    for number, text in enumerate(text for batch in batches for text in batch.column(0).to_pylist()):
        yield _text_of({field: text}, field, f"{path} row {number}")


def _read_dataset(name: str, field: str, split: str) -> Iterator[str]:
    from datasets import load_dataset  # seconds to import, needed for hub names alone

    try:
        rows = load_dataset(name, split=split, streaming=True)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{name} is neither a file here nor a dataset that could be opened: {str(error).splitlines()[0]}"
        ) from error
    for number, row in enumerate(rows):
        yield _text_of(row, field, f"{name} row {number}")


def _text_of(record: Mapping[str, object], field: str, where: str) -> str:
    text = record.get(field)
    if not isinstance(text, str):
        raise DataError(f"field {field!r} must hold text, {where} has the fields {', '.join(record) or 'none'}")
    return text


@contextmanager
def _reporting_encoding(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"text must be UTF-8, {path} is not: {error.reason} at byte {error.start}") from error


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"text file not found: {path}")
