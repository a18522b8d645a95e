"""Documents of a source: what its records hold, one after the other, wherever and however it is stored."""

import logging
from collections.abc import Iterator
from itertools import chain

from minitron.data.conversations import Document
from minitron.data.formats import READERS
from minitron.data.formats.hub import read_hub
from minitron.data.formats.row import Row
from minitron.data.formats.saved_dataset import read_saved_dataset
from minitron.data.formats.suffixes import file_format
from minitron.data.locations import Location, locate
from minitron.data.records import RecordForm, RecordKind
from minitron.errors import DataError

logger = logging.getLogger(__name__)

# Rows without text that a source may have: some are usual in published data; more say that another field was meant.
MOST_SKIPPED = 0.05


def read_documents(
    source: str, *, field: str = "text", split: str = "train", kind: RecordKind | None = None
) -> Iterator[Document]:
    """Yields the documents of a source in their stored order: text, or conversations.

    Rows whose text is null or blank are skipped, counted and reported.

    Args:
        source: A file, a pattern of files, a folder of shards or by `save_to_disk`, or a dataset's owner/name.
        field: The field that holds the text, or the messages where it is not `text`.
        split: The split of a dataset.
        kind: What the records are; found from the fields of the first one when None.

    Raises:
        DataError: Something is missing, empty, damaged or malformed, lacks the field, or more than a twentieth of the
            rows hold no text.
    """
    form = RecordForm(kind=kind, field=field)
    rows = read_rows(locate(source), form, split=split)
    count = skipped = 0
    for row in rows:
        form = form.resolved(row)
        document = form.read(row)
        count += 1
        if document is None:
            skipped += 1
        else:
            yield document
    if count == 0:
        raise DataError(f"a text source must hold at least one document, {source} holds none")
    if skipped == count:
        raise DataError(f"a text source must hold text, every document of {source} is empty")
    if skipped > MOST_SKIPPED * count:
        raise DataError(
            f"at most {MOST_SKIPPED:.0%} of a source's rows may have no text, {source} has none in {skipped:,} of "
            f"{count:,}; name the field that holds it, or leave those rows out of the file"
        )
    if skipped:
        logger.warning("%s: skipped %d of %d rows, which hold no text", source, skipped, count)


def read_kind(source: str, *, field: str = "text", split: str = "train") -> RecordKind:
    """What the records of a source are, from the fields of its first row.

    Raises:
        DataError: See `read_documents`.
    """
    form = RecordForm(field=field)
    first = next(read_rows(locate(source), form, split=split), None)
    if first is None:
        raise DataError(f"a text source must hold at least one document, {source} holds none")
    kind = form.resolved(first).kind
    assert kind is not None
    return kind


def read_rows(location: Location, form: RecordForm, *, split: str) -> Iterator[Row]:
    """Yields the rows of all files of a source, in sorted order."""
    if location.on_hub:
        return read_hub(location.source, split)
    if location.folder is not None:
        return read_saved_dataset(location.folder, form.columns, split)
    return chain.from_iterable(READERS[file_format(path) or ""](path, form.columns) for path in location.files)
