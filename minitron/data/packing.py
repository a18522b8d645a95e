"""Packs a blend of text into a sequence file: bounded memory, atomic, resumed after an interruption."""

import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from minitron.artifacts.artifact import working_folder
from minitron.artifacts.atomic import PARTIAL, sync_file, sync_folder
from minitron.artifacts.disk_space import reporting_full_disk, require_room
from minitron.artifacts.locks import locked
from minitron.artifacts.resume import SavedState, record_file
from minitron.data.sequence_file import SequenceFile, SequenceFileHeader, make_header, open_sequence_file
from minitron.data.sequences import fill_sequences
from minitron.data.sources import Blend, shuffled_shares
from minitron.data.tokenizer import Tokenizer
from minitron.distributed import Ranks
from minitron.errors import DataError
from minitron.progress import progress_bar

logger = logging.getLogger(__name__)

SEQUENCES_FILE = "blocks"
RECORD = "packed"


def write_sequence_file(
    path: Path, blend: Blend, tokenizer: Tokenizer, *, made_from: Mapping[str, object]
) -> SequenceFile:
    """Packs a blend into a file and opens it; a finished file of the same inputs is opened as it is.

    The sequences are those of `blend_text`. They are written source by source; the blend's order is applied when
    they are read. An interrupted call leaves its work in a folder beside the file, and sources that were finished are
    not read again.

    Args:
        path: The file, which appears when it is complete.
        blend: The text.
        tokenizer: The model's.
        made_from: Hashes of the text and the tokenizer; a file there with other hashes is rejected.

    Raises:
        DataError: The file there was made from something else, another process writes it, the text fills no sequence,
            or the disk has no room.
    """
    header = make_header(blend, tokenizer, made_from)
    if path.exists():
        return _open_same(path, header)
    partial = _claim_folder(path)
    with locked(path), reporting_full_disk(partial):
        if not path.exists():  # else another process finished while this one waited for the lock
            _write(partial, header, blend, tokenizer)
            (partial / SEQUENCES_FILE).replace(path)  # synced after its last source
            sync_folder(path.parent)
        shutil.rmtree(partial, ignore_errors=True)
    return _open_same(path, header)


def shared_sequence_file(
    ranks: Ranks,
    path: Path,
    blend: Blend,
    tokenizer: Tokenizer,
    *,
    made_from: Mapping[str, object],
    poll_s: float = 5.0,
) -> SequenceFile:
    """The sequence file in every process: rank 0 writes it, the others wait until it is there.

    They poll for it instead of waiting in a barrier, since no collective waits reliably for hours of packing. When
    rank 0 fails, the launcher ends the others. All must see the file's folder.
    """
    if ranks.is_main:
        return write_sequence_file(path, blend, tokenizer, made_from=made_from)
    header = make_header(blend, tokenizer, made_from)
    while not path.exists():
        time.sleep(poll_s)
    return _open_same(path, header)


def _open_same(path: Path, header: SequenceFileHeader) -> SequenceFile:
    found = open_sequence_file(path)
    differing = [
        name for name in SequenceFileHeader.model_fields if getattr(found.header, name) != getattr(header, name)
    ]
    if differing:
        raise DataError(
            f"a sequence file must be of the same inputs, {path} has another {' and '.join(differing)}; "
            "delete it or choose another output"
        )
    return found


def _claim_folder(path: Path) -> Path:
    partial = working_folder(path)
    record = record_file(partial, RECORD).name
    ours = {record, record + PARTIAL, SEQUENCES_FILE}
    if partial.exists() and not (partial.is_dir() and {found.name for found in partial.iterdir()} <= ours):
        raise DataError(f"{partial} is in the way and was not written by minitron; move it or choose another output")
    partial.mkdir(parents=True, exist_ok=True)
    return partial


def _write(partial: Path, header: SequenceFileHeader, blend: Blend, tokenizer: Tokenizer) -> None:
    state = SavedState(partial, {"header": header.model_dump(), "sources": [asdict(one) for one in blend.sources]})
    shares = list(shuffled_shares(blend.sources, blend.num_sequences, seed=blend.seed))
    done = _done_sources(state)
    done_sequences = sum(share.num_sequences for share in shares[:done])
    with _opened(partial / SEQUENCES_FILE, header, done_sequences) as file, progress_bar() as progress:
        task = progress.add_task("packing", total=header.num_sequences, completed=done_sequences)
        for number, share in enumerate(shares[done:], start=done + 1):
            counted = 0
            for chunk in fill_sequences(share, tokenizer, seq_len=header.seq_len):
                file.write(header.to_records(chunk))
                counted += int(chunk.all_counted().sum())
                progress.advance(task, len(chunk))
            tokens = share.num_sequences * header.seq_len
            logger.info(
                "%s: the loss counts %d of %d tokens (%.0f%%)", share.path, counted, tokens, 100 * counted / tokens
            )
            file.flush()
            sync_file(partial / SEQUENCES_FILE)
            state.save_record(RECORD, {"sources": number})


def _done_sources(state: SavedState) -> int:
    record = state.load_record(RECORD)
    if record is None:
        return 0
    done = record["sources"]
    assert isinstance(done, int)
    logger.info("%s: %d sources were packed before the interruption", state.folder, done)
    return done


def _opened(path: Path, header: SequenceFileHeader, done_sequences: int) -> BinaryIO:
    begins = header.to_bytes()
    whole = len(begins) + done_sequences * header.sequence_bytes
    held = path.stat().st_size if path.exists() else 0
    if done_sequences and held < whole:
        raise DataError(
            f"{path} must hold the {done_sequences:,} sequences that were packed before; delete {path.parent}"
        )
    require_room(path.parent, len(begins) + header.num_sequences * header.sequence_bytes - held, what="the packed text")
    file = path.open("r+b" if done_sequences else "wb")
    file.truncate(whole if done_sequences else 0)
    file.seek(0, os.SEEK_END)
    if not done_sequences:
        file.write(begins)
    return file
