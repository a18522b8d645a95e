"""Plain text: one document, or several separated by lines that hold only `---`."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from minitron.data.formats.encoding import open_text
from minitron.data.formats.row import Row

FIELD = "text"
SEPARATOR = "---\n"


def read_txt(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yields the documents of a `.txt` file that are not blank, under the field `text`."""
    with open_text(path) as file:
        for number, part in enumerate(_split(file), start=1):
            if part.strip():
                yield Row({FIELD: part}, f"{path} document {number}")


def _split(lines: Iterable[str]) -> Iterator[str]:
    part: list[str] = []
    for line in lines:
        if line == SEPARATOR and part:  # the line break before it belongs to the separator, too
            yield "".join(part)[:-1]
            part = []
        else:
            part.append(line)
    yield "".join(part)
