"""Opens a stored file for reading UTF-8 text; a byte that is not is reported with its line and place."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from minitron.data.formats.compression import open_binary
from minitron.data.formats.suffixes import compression
from minitron.errors import DataError

UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte-order marks


@contextmanager
def open_text(path: Path, *, newline: str | None = None) -> Iterator[TextIO]:
    """The text of a file, decompressed, without a byte-order mark.

    Args:
        path: The file.
        newline: As of `open`: None makes every line end with a line feed.

    Raises:
        DataError: There is no such file, it is damaged, or it is not UTF-8.
    """
    try:
        with open_binary(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline) as text:
            yield text
    except UnicodeDecodeError as error:
        raise DataError(_describe(path)) from error


def _describe(path: Path) -> str:
    """Where the first byte is that is not UTF-8, and how to convert the file."""
    with open_binary(path) as file:
        before = 0
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                of = "the decompressed text" if compression(path) else "the file"
                source = "UTF-16" if number == 1 and line.startswith(UTF_16) else "ISO-8859-1"
                return (
                    f"text must be UTF-8, {path} is not: line {number} holds 0x{line[error.start]:02x} at byte "
                    f"{before + error.start} of {of}; convert it, as by `iconv -f {source} -t UTF-8` if it is {source}"
                )
            before += len(line)
    raise AssertionError(f"{path} was changed while it was read")
