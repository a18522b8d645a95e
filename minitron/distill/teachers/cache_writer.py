"""Writes a teacher's cache; an interrupted writer resumes where it was killed."""

# B sequences of a batch, T tokens a sequence, N sequences of the phase

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch

from minitron.artifacts.atomic import PARTIAL, put_in_place
from minitron.artifacts.disk_space import reporting_full_disk, require_room
from minitron.artifacts.json_files import write_json
from minitron.artifacts.locks import locked
from minitron.data.masks import PackedSequences
from minitron.distill.loss.objective import DenseTargets, TopTargets
from minitron.distill.teachers.cache_file import (
    HEADER_FILE,
    PLAN_FILE,
    CacheContents,
    CacheHeader,
    TeacherCache,
    make_header,
    open_teacher_cache,
    read_cache_header,
    shard_file,
)
from minitron.distill.teachers.teacher import Teacher
from minitron.distill.teachers.top_k import keep_top_k
from minitron.errors import MinitronError
from minitron.progress import progress_bar
from minitron.units import format_bytes

logger = logging.getLogger(__name__)


class WriterRanks(Protocol):
    """What the writer asks of `minitron.distributed.Ranks`."""

    rank: int
    world_size: int

    def barrier(self) -> None:
        """Returns when every process has come here."""


def write_teacher_cache(
    teacher: Teacher,
    sequences_NT: PackedSequences,
    folder: Path,
    contents: CacheContents,
    *,
    batch_size: int,
    ranks: WriterRanks | None = None,
) -> TeacherCache:
    """Runs the teacher over all sequences and keeps the most likely tokens of each distribution.

    An unfinished cache of the same contents is resumed from the first batch that is not whole; a finished one is left
    as it is. Several processes take whole files in turn, each running the teacher on sequences of its own: a teacher
    that is sharded over the processes must be run by one call of all of them, and cannot be here.

    Args:
        teacher: Gives whole distributions.
        sequences_NT: Sequences of the whole phase.
        folder: Where the cache is made.
        contents: What is kept.
        batch_size: Sequences that the teacher is run on at once.
        ranks: The processes that write together; alone when None.

    Raises:
        MinitronError: The folder holds another cache, the disk has no room, or the teacher gives no such distributions.
    """
    header = make_header(contents, seq_len=int(sequences_NT.shape[1]), num_sequences=len(sequences_NT))
    index, count, wait = (0, 1, _go_on) if ranks is None else (ranks.rank, ranks.world_size, ranks.barrier)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, rank=index):
        if index == 0:
            _claim(folder, header)
        wait()
        if not (folder / HEADER_FILE).is_file():
            writer = _Writer(teacher, sequences_NT, folder, header, batch_size)
            writer.write(range(index, header.num_shards, count))
            wait()
            if index == 0:
                put_in_place(folder / PLAN_FILE, folder / HEADER_FILE)
                logger.info("%s: %d sequences, %s", folder, header.num_sequences, format_bytes(header.total_bytes))
        wait()
    return open_teacher_cache(folder)


def _go_on() -> None:
    pass


def _claim(folder: Path, header: CacheHeader) -> None:
    """Makes sure that what the folder holds of a cache is part of this one, and that there is room for the others."""
    found = next((path for name in (HEADER_FILE, PLAN_FILE) if (path := folder / name).is_file()), None)
    if found is None:
        write_json(folder / PLAN_FILE, header.model_dump(mode="json"))
    elif read_cache_header(found) != header:
        raise MinitronError(
            f"{folder} must hold this cache or none, {found.name} tells of another one; remove it or choose another "
            "folder"
        )
    written = sum(path.stat().st_size for path in folder.glob("sequences-*"))
    require_room(folder, header.total_bytes - written, what="the teacher's cache")


class _Writer:
    def __init__(
        self, teacher: Teacher, sequences_NT: PackedSequences, folder: Path, header: CacheHeader, batch_size: int
    ) -> None:
        self._teacher, self._sequences_NT, self._folder = teacher, sequences_NT, folder
        self._header, self._batch_size = header, batch_size

    def write(self, shards: range) -> None:
        sequences = sum(len(self._header.shard_sequences(shard)) for shard in shards)
        with progress_bar() as progress, reporting_full_disk(self._folder):
            task = progress.add_task("teacher's cache, sequences", total=sequences)
            for shard in shards:
                for done in self._write_shard(shard):
                    progress.advance(task, done)

    def _write_shard(self, shard: int) -> Iterator[int]:
        """Yields numbers of sequences as they are done."""
        sequences, path = self._header.shard_sequences(shard), shard_file(self._folder, self._header, shard)
        if path.is_file():
            yield len(sequences)
            return
        partial = path.with_name(path.name + PARTIAL)
        with partial.open("a+b") as file:
            # Batches begin where they would have, so that the teacher's rounding is that of an uninterrupted run.
            done = self._whole_records(file, sequences) // self._batch_size * self._batch_size
            file.truncate(done * self._header.layout.record_bytes)
            yield done
            for first in range(sequences.start + done, sequences.stop, self._batch_size):
                batch = range(first, min(first + self._batch_size, sequences.stop))
                file.write(self._records(batch))
                file.flush()
                yield len(batch)
        put_in_place(partial, path)

    def _whole_records(self, file: BinaryIO, sequences: range) -> int:
        # Each record proves by its checksums that it is whole, which a file's length does not after a power cut.
        layout = self._header.layout
        file.seek(0)
        for done, sequence in enumerate(sequences):
            if not layout.is_whole(memoryview(file.read(layout.record_bytes)), self._sequences_NT[sequence]):
                return done
        return len(sequences)

    def _records(self, batch: range) -> bytes:
        ids_BT = np.asarray(self._sequences_NT[batch.start : batch.stop])
        targets = self._teacher.targets(
            torch.from_numpy(ids_BT.astype(np.int64)), torch.arange(batch.start, batch.stop)
        )
        header = self._header
        if not isinstance(targets, DenseTargets):
            raise MinitronError("a cache must be made from whole distributions, the teacher gives parts of them")
        if len(targets.head_VD) < header.vocab_size:
            raise MinitronError(
                f"vocab_size must be at most the rows of the teacher's head, {len(targets.head_VD)}, got "
                f"{header.vocab_size}"
            )
        kept = keep_top_k(
            targets,
            top_k=header.top_k,
            vocab_size=header.vocab_size,
            temperature=header.temperature,
            draws_NM=_draws(batch, header) if header.drawn_tokens else None,
        )
        return b"".join(
            header.layout.encode(part, ids_T) for part, ids_T in zip(_split(kept, header.seq_len), ids_BT, strict=True)
        )


def _split(targets: TopTargets, seq_len: int) -> Iterator[TopTargets]:
    for start in range(0, len(targets.ids_NK), seq_len):
        yield targets.rows(slice(start, start + seq_len))


def _draws(batch: range, header: CacheHeader) -> torch.Tensor:
    # By the sequence's position alone, so that they are the same whatever batch or process it falls to.
    size = (header.seq_len, header.drawn_tokens)
    return torch.cat([torch.rand(size, generator=torch.Generator().manual_seed(sequence)) for sequence in batch])
