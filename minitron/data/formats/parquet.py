"""Parquet, a batch of rows and the wanted columns in memory at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from minitron.data.formats.row import Row
from minitron.errors import DataError

BATCH_ROWS = 1024  # held as Python objects at a time


def read_parquet(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yields the rows of a `.parquet` file, with the wanted columns that it has.

    Raises:
        DataError: The file is missing, or none that pyarrow reads.
    """
    import pyarrow.parquet as pq  # 0.1 s to import, needed for this one format
    from pyarrow import ArrowException

    if not path.is_file():
        raise DataError(f"text file not found: {path}")
    try:
        table = pq.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"a .parquet file must be one that pyarrow reads, {path} is not: {error}") from error
    names = list(table.schema_arrow.names)
    batches = table.iter_batches(BATCH_ROWS, columns=[name for name in names if name in columns])
    rows = (values for batch in batches for values in _rows(batch))
    number = 0
    while True:
        try:  # a page is read, and may be found to be damaged, when its rows are asked for
            values = next(rows, None)
        except (ArrowException, OSError) as error:
            raise DataError(f"a .parquet file must be whole, {path} is not behind row {number}: {error}") from error
        if values is None:
            return
        yield Row(values, f"{path} row {number}", names)
        number += 1


def _rows(batch: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = batch.to_pylist()  # type: ignore[attr-defined]
    return found or [{}] * batch.num_rows  # type: ignore[attr-defined]
