"""Names of text files: which format and compression a suffix stands for, in any case."""

from pathlib import Path

FORMATS = (".txt", ".json", ".jsonl", ".csv", ".parquet")
COMPRESSED = (".txt", ".json", ".jsonl", ".csv")  # formats that may carry one of these behind their suffix
COMPRESSIONS = (".gz", ".zst")

KNOWN_FILES = f"{', '.join(FORMATS)} (all but the last also with {' or '.join(COMPRESSIONS)} behind it)"


def file_format(path: str | Path) -> str | None:
    """The format that a file's name stands for; None where it is that of no text file.

    >>> [file_format(name) for name in ("data/A.JSONL", "b.jsonl.gz", "allenai/c4.v1", "c.parquet.gz")]
    ['.jsonl', '.jsonl', None, None]
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        return suffixes[-2] if len(suffixes) > 1 and suffixes[-2] in COMPRESSED else None
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else None


def compression(path: Path) -> str:
    """The suffix of a file's compression, empty where it has none.

    >>> compression(Path("b.jsonl.GZ")), compression(Path("b.jsonl"))
    ('.gz', '')
    """
    suffix = path.suffix.lower()
    return suffix if suffix in COMPRESSIONS else ""
