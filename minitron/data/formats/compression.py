"""Opens a stored file for reading bytes, decompressed by its name."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from minitron.data.formats.suffixes import compression
from minitron.errors import DataError


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed.

    Raises:
        DataError: There is no such file, or its compressed bytes are damaged or cut off.
    """
    if not path.is_file():
        raise DataError(f"text file not found: {path}")
    packed = compression(path)
    with _OPENERS[packed](path) as file:
        try:
            yield file
        except (EOFError, zlib.error, OSError) as error:
            # A damaged file has no errno; one that the system cannot read has.
            if not packed or getattr(error, "errno", None) is not None:
                raise
            raise DataError(
                f"a {packed} file must be whole, {path} is damaged or cut off: {error}; fetch it again"
            ) from error


def _open_plain(path: Path) -> BinaryIO:
    return path.open("rb")


def _open_gzip(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb"))


def _open_zstd(path: Path) -> BinaryIO:
    import pyarrow  # 0.1 s to import; what datasets brings anyway decompresses zstd, frame after frame

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))


_OPENERS: dict[str, Callable[[Path], BinaryIO]] = {"": _open_plain, ".gz": _open_gzip, ".zst": _open_zstd}
