"""How text is stored: a reader for each format, by the suffix of its files."""

from minitron.data.formats.csv_table import read_csv
from minitron.data.formats.json_array import read_json
from minitron.data.formats.jsonl import read_jsonl
from minitron.data.formats.parquet import read_parquet
from minitron.data.formats.row import Reader, Row
from minitron.data.formats.txt import read_txt

READERS: dict[str, Reader] = {
    ".txt": read_txt,
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
    ".parquet": read_parquet,
}

__all__ = ["READERS", "Reader", "Row"]
