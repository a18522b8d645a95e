"""CSV with a line of names: commas between fields, double quotes around those that hold commas or line breaks."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from minitron.data.formats.encoding import open_text
from minitron.data.formats.row import Row
from minitron.errors import DataError

MOST_FIELD_CHARS = 2**31 - 1  # csv's own limit of 131,072 is less than a long document


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yields the rows of a `.csv` file; a field that is empty is empty text.

    Raises:
        DataError: The file is missing, not UTF-8, has no line of names, or a row has other fields than it.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MOST_FIELD_CHARS))  # the module's, there is none of a reader
    with open_text(path, newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            names = next(rows, None)
            if names is None:
                return
            for values in rows:
                where = f"{path}:{rows.line_num}"
                if values and len(values) != len(names):
                    raise DataError(
                        f"a row must have the {len(names)} fields that the first line names, {where} has "
                        f"{len(values)}; put double quotes around text that holds commas or line breaks"
                    )
                if values:
                    yield Row(dict(zip(names, values, strict=True)), where)
        except csv.Error as error:
            raise DataError(f"a .csv file must be well formed, {path}:{rows.line_num} is not: {error}") from error
