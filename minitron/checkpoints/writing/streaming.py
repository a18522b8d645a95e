"""Streams cuts from source files into planned shards: chunks are read, cut and written by a few threads.

No file is mapped and no tensor is held: a thread has three buffers. Reads and writes name their offsets, so that chunks
may end in any order and one thread's waiting is another's work.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minitron.artifacts.atomic import PARTIAL
from minitron.artifacts.disk_space import allocated_bytes, require_room
from minitron.artifacts.page_cache import drop_pages
from minitron.checkpoints.rounding import Raw, convert
from minitron.checkpoints.writing.chunks import Chunk, chunks_of
from minitron.checkpoints.writing.journal import Journal
from minitron.checkpoints.writing.layout import Layout, Placed, SourceFile
from minitron.checkpoints.writing.shard_plan import PlannedShard
from minitron.checkpoints.writing.shard_writer import begin_shard, finish_shard, write_index
from minitron.distributed import Ranks
from minitron.dtypes import FLOAT_VIEWS, STORED_BYTES, WORD_VIEWS
from minitron.errors import CheckpointError
from minitron.progress import progress_bar
from minitron.units import MIB

# What a core's cache holds; larger buffers were no faster, and two threads keep reading and writing at it at a time.
BUFFER_BYTES = MIB
THREADS = 2


def write_layout(
    layout: Layout,
    journal: Journal,
    *,
    threads: int | None = None,
    buffer_bytes: int = BUFFER_BYTES,
    ranks: Ranks | None = None,
) -> None:
    """Writes the shards that the folder does not hold whole yet, then the index over them.

    Every shard is written under a temporary name, synced and renamed before it counts. Several processes take whole
    shards in turn, and return when all are written.

    Args:
        layout: What is written.
        journal: The open progress file of the output folder.
        threads: How many work at a time; None for the measured default.
        buffer_bytes: Most bytes that a thread reads or writes at once.
        ranks: The processes that write together; this one alone when None.

    Raises:
        CheckpointError: There is too little room, or the source changes while it is read.
        OSError: The disk fills up all the same; `reporting_full_disk` says so in a line.
    """
    ranks = ranks or Ranks.alone()
    folder, missing = journal.folder, _missing(layout, journal) if ranks.is_main else []
    names = ranks.broadcast([shard.name for shard in missing])
    own = [shard for shard in layout.shards if shard.name in names[ranks.rank :: ranks.world_size]]
    whole = [shard for shard in layout.shards if shard.name not in names]
    total, done = (sum(shard.nbytes for shard in shards) for shards in ((*whole, *own), whole))
    with progress_bar(of_bytes=True) as progress:
        task = progress.add_task("prune", total=total, completed=done)
        work = _Work(
            shards=own,
            tensors=layout.tensors,
            journal=journal,
            buffer_bytes=buffer_bytes,
            report=lambda nbytes: progress.advance(task, nbytes),
        )
        work.run(THREADS if threads is None else threads)
    ranks.barrier()
    if ranks.is_main:
        write_index(folder, layout.shards)


def _missing(layout: Layout, journal: Journal) -> list[PlannedShard]:
    """The shards that are not whole yet, for which there is room."""
    folder = journal.folder
    missing = [shard for shard in layout.shards if not _is_whole(shard, journal)]
    held = sum(allocated_bytes(folder / (shard.name + end)) for shard in missing for end in (PARTIAL, ""))
    require_room(folder, sum(shard.nbytes for shard in missing) - held, what="the pruned checkpoint")
    return missing


@dataclass(kw_only=True)
class _Work:
    """The chunks that are still to be done, handed to the threads one by one, and the shards that end with them.

    Attributes:
        shards: The files to write.
        tensors: Name -> what becomes of a tensor.
        journal: The open progress file.
        buffer_bytes: Most bytes that a thread reads or writes at once.
        report: Called with the bytes of every chunk that is written.
    """

    shards: Sequence[PlannedShard]
    tensors: Mapping[str, Placed]
    journal: Journal
    buffer_bytes: int
    report: Callable[[int], None]

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._left: dict[str, int] = {}
        self._stopped = False
        self._chunks = self._begin()

    def run(self, threads: int) -> None:
        """Does all of it with so many threads; the first error ends it."""
        if threads < 1:
            raise CheckpointError(f"threads must be positive, got {threads}")
        with ThreadPoolExecutor(threads) as pool:
            running = [pool.submit(self._run) for _ in range(threads)]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
            finally:
                self._stopped = True
        for done in running:
            done.result()

    def _run(self) -> None:
        buffers = Buffers(self.buffer_bytes)
        while (given := self._next()) is not None:
            shard, chunk = given
            copy_chunk(chunk, self.journal.folder / (shard.name + PARTIAL), buffers)
            self.report(chunk.nbytes)
            if self._is_last(shard):
                self._finish(shard)

    def _next(self) -> tuple[PlannedShard, Chunk] | None:
        with self._lock:
            return None if self._stopped else next(self._chunks, None)

    def _begin(self) -> Iterator[tuple[PlannedShard, Chunk]]:
        for shard in self.shards:
            (self.journal.folder / shard.name).unlink(missing_ok=True)
            begin_shard(self.journal.folder, shard)
            self._left[shard.name] = 1  # one for this loop, so that no shard ends while chunks of it are to come
            for name in shard.tensors:
                for chunk in chunks_of(self.tensors[name], buffer_bytes=self.buffer_bytes):
                    self._left[shard.name] += 1
                    yield shard, chunk
            self._left[shard.name] -= 1
            if not self._left[shard.name]:
                self._finish(shard)

    def _is_last(self, shard: PlannedShard) -> bool:
        with self._lock:
            self._left[shard.name] -= 1
            return not self._left[shard.name]

    def _finish(self, shard: PlannedShard) -> None:
        finish_shard(self.journal.folder, shard)
        self.journal.record(shard.name)


class Buffers:
    """What a thread reads into and picks into."""

    def __init__(self, nbytes: int) -> None:
        # An element is read whole, however small the buffers are asked to be.
        self.read, self.rows, self.columns = (np.empty(max(nbytes, 8), dtype=np.uint8) for _ in range(3))


def copy_chunk(chunk: Chunk, target: Path, buffers: Buffers) -> None:
    """Reads a chunk from the source and writes it at its place in the target, which must exist.

    Raises:
        CheckpointError: The source is no longer the file that was planned with.
    """
    placed = chunk.tensor
    raw = _read(placed.file, chunk.runs, buffers.read).view(WORD_VIEWS[STORED_BYTES[placed.stored.dtype]])
    result = _pick(raw.reshape(-1, chunk.row), chunk, buffers)
    result = _converted(result, placed)
    _write(target, result, chunk.start)


def _read(source: SourceFile, runs: tuple[tuple[int, int], ...], buffer: Raw) -> Raw:
    descriptor = os.open(source.path, os.O_RDONLY)
    try:
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != (source.size_bytes, source.mtime_ns):
            raise CheckpointError(
                f"{source.path} must not change while it is read, it did; call again once it is at rest"
            )
        view, filled = buffer.data, 0
        for offset, nbytes in runs:
            end = filled + nbytes
            while filled < end:
                read = os.preadv(descriptor, [view[filled:end]], offset)
                if not read:
                    raise CheckpointError(f"{source.path} ends before its tensors do; it changed while it was read")
                filled, offset = filled + read, offset + read
        # Read once: the pages are given back, so that a large source pushes nobody else's out and its own are reused.
        for offset, nbytes in runs:
            drop_pages(descriptor, offset, nbytes)
    finally:
        os.close(descriptor)
    return buffer[:filled]


def _pick(raw: Raw, chunk: Chunk, buffers: Buffers) -> Raw:
    # The mode is one that lets numpy write straight into `out`; positions are in range by the plan.
    if chunk.rows is not None:
        out = buffers.rows.view(raw.dtype)[: len(chunk.rows) * chunk.row].reshape(len(chunk.rows), chunk.row)
        raw = raw.take(chunk.rows, axis=0, out=out, mode="clip")
    if chunk.columns is not None:
        shape = (len(raw), len(chunk.columns))
        out = buffers.columns.view(raw.dtype)[: shape[0] * shape[1]].reshape(shape)
        raw = raw.take(chunk.columns, axis=1, out=out, mode="clip")
    return raw.reshape(-1)


def _converted(raw: Raw, placed: Placed) -> Raw:
    before, after, cut = placed.stored.dtype, placed.dtype, placed.cut
    if before == after and cut.scale == 1.0:
        return raw
    return convert(raw.view(FLOAT_VIEWS[before]), before=before, after=after, scale=cut.scale, plus=cut.plus)


def _write(target: Path, result: Raw, start: int) -> None:
    view = result.view(np.uint8).data
    descriptor = os.open(target, os.O_WRONLY)
    try:
        written = 0
        while written < len(view):
            written += os.pwrite(descriptor, view[written:], start + written)
        # Begins to write the pages back, so that the sync at the shard's end has little left to wait for.
        drop_pages(descriptor, start, len(view))
    finally:
        os.close(descriptor)


def _is_whole(shard: PlannedShard, journal: Journal) -> bool:
    if not journal.has(shard.name, shard.nbytes):
        return False
    with (journal.folder / shard.name).open("rb") as file:
        return file.read(len(shard.head)) == shard.head
