"""A folder that `datasets` wrote by `save_to_disk`: Arrow files that are mapped, not read whole."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from minitron.data.formats.row import Row
from minitron.errors import DataError

STATE_FILE = "state.json"  # beside the Arrow files of one dataset
SPLITS_FILE = "dataset_dict.json"  # above the folders of several splits


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder is one that `save_to_disk` wrote."""
    return (folder / STATE_FILE).is_file() or (folder / SPLITS_FILE).is_file()


def read_saved_dataset(folder: Path, columns: Sequence[str], split: str) -> Iterator[Row]:
    """Yields the rows of a saved dataset, with the wanted columns that it has.

    Args:
        folder: The folder.
        columns: The wanted columns.
        split: The split, where the folder holds several.

    Raises:
        DataError: The folder is damaged, or has no such split.
    """
    from datasets import DatasetDict, load_from_disk  # seconds to import, needed for such folders alone
    from pyarrow import ArrowException

    try:
        rows = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, ArrowException) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(f"a saved dataset must be one that datasets loads, {folder} is not: {reason}") from error
    if isinstance(rows, DatasetDict):
        if split not in rows:
            raise DataError(f"a split must be one of {', '.join(rows)} in {folder}, got {split!r}; set split")
        rows = rows[split]
    names = list(rows.column_names)
    wanted = [name for name in names if name in columns]
    for number, values in enumerate(rows.select_columns(wanted) if wanted else ({} for _ in range(len(rows)))):
        yield Row(values, f"{folder} row {number}", names)
