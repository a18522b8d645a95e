"""Writing a planned checkpoint at the speed of the disk: pieces read, picked and written by a few threads.

No file is mapped and no tensor is held: a thread has three buffers. Reads and writes name their offsets, so that pieces
may end in any order and one thread's waiting is another's work.
"""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress, TaskID

from minitron.artifacts.atomic import sync_folder
from minitron.artifacts.disk_space import require_room
from minitron.artifacts.json_files import write_json
from minitron.artifacts.page_cache import drop_pages
from minitron.checkpoints.headers import INDEX_FILE
from minitron.checkpoints.rounding import Raw, convert
from minitron.checkpoints.writing.chunks import Piece, pieces
from minitron.checkpoints.writing.journal import PARTIAL, Journal
from minitron.checkpoints.writing.layout import Layout, Placed, Shard, SourceFile
from minitron.dtypes import FLOAT_VIEWS, STORED_BYTES, WORD_VIEWS
from minitron.errors import CheckpointError
from minitron.progress import progress_bar
from minitron.units import MIB

# What a core's cache holds; larger buffers were no faster, and two threads keep reading and writing at it at a time.
BUFFER_BYTES = MIB
THREADS = 2


def write_layout(
    layout: Layout, journal: Journal, *, threads: int | None = None, buffer_bytes: int = BUFFER_BYTES
) -> None:
    """Writes the shards that the folder does not hold whole yet, then the index over them.

    Every shard is written under a temporary name, synced and renamed before it counts.

    Args:
        layout: What is written.
        journal: The open progress file of the output folder.
        threads: How many work at a time; None for the measured default.
        buffer_bytes: Most bytes that a thread reads or writes at once.

    Raises:
        CheckpointError: There is too little room, or the source changes while it is read.
        OSError: The disk fills up all the same; `reporting_full_disk` says so in a line.
    """
    folder = journal.folder
    missing = [shard for shard in layout.shards if not _is_whole(shard, journal)]
    held = sum(_allocated(folder / (shard.name + PARTIAL)) + _allocated(folder / shard.name) for shard in missing)
    require_room(folder, sum(shard.nbytes for shard in missing) - held, what="the pruned checkpoint")
    total = sum(shard.nbytes for shard in layout.shards)
    with progress_bar(of_bytes=True) as progress:
        task = progress.add_task("prune", total=total, completed=total - sum(shard.nbytes for shard in missing))
        work = _Work(missing, journal, progress, task, buffer_bytes)
        _run(work, THREADS if threads is None else threads)
    if len(layout.shards) > 1:
        write_json(folder / INDEX_FILE, layout.index())
        sync_folder(folder)


def _run(work: "_Work", threads: int) -> None:
    if threads < 1:
        raise CheckpointError(f"threads must be positive, got {threads}")
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(work.run) for _ in range(threads)]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        finally:
            work.stop()
    for done in running:
        done.result()


class _Work:
    """The pieces that are still to be done, handed to the threads one by one, and the shards that end with them."""

    def __init__(
        self, shards: list[Shard], journal: Journal, progress: Progress, task: TaskID, buffer_bytes: int
    ) -> None:
        self._lock = threading.Lock()
        self._journal, self._progress, self._task = journal, progress, task
        self._buffer_bytes = buffer_bytes
        self._left: dict[str, int] = {}
        self._stopped = False
        self._pieces = self._begin(shards)

    def stop(self) -> None:
        """Lets no thread begin another piece."""
        self._stopped = True

    def run(self) -> None:
        """A thread's work: pieces until there are none."""
        buffers = Buffers(self._buffer_bytes)
        while (given := self._next()) is not None:
            shard, piece = given
            partial = self._journal.folder / (shard.name + PARTIAL)
            copy_piece(piece, partial, buffers)
            self._progress.advance(self._task, piece.nbytes)
            if self._is_last(shard):
                self._finish(shard, partial)

    def _next(self) -> tuple[Shard, Piece] | None:
        with self._lock:
            return None if self._stopped else next(self._pieces, None)

    def _begin(self, shards: list[Shard]) -> Iterator[tuple[Shard, Piece]]:
        for shard in shards:
            (self._journal.folder / shard.name).unlink(missing_ok=True)
            path = self._journal.folder / (shard.name + PARTIAL)
            with path.open("wb") as file:
                file.write(shard.head)
            self._left[shard.name] = 1  # one for this loop, so that no shard ends while pieces of it are to come
            for tensor in shard.tensors:
                for piece in pieces(tensor, buffer_bytes=self._buffer_bytes):
                    self._left[shard.name] += 1
                    yield shard, piece
            self._left[shard.name] -= 1
            if not self._left[shard.name]:
                self._finish(shard, path)

    def _is_last(self, shard: Shard) -> bool:
        with self._lock:
            self._left[shard.name] -= 1
            return not self._left[shard.name]

    def _finish(self, shard: Shard, partial: Path) -> None:
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(partial.with_name(shard.name))
        sync_folder(self._journal.folder)
        self._journal.record(shard.name)


class Buffers:
    """What a thread reads into and picks into."""

    def __init__(self, nbytes: int) -> None:
        # An element is read whole, however small the buffers are asked to be.
        self.read, self.rows, self.columns = (np.empty(max(nbytes, 8), dtype=np.uint8) for _ in range(3))


def copy_piece(piece: Piece, target: Path, buffers: Buffers) -> None:
    """Reads a piece from the source and writes it at its place in the target, which must exist.

    Raises:
        CheckpointError: The source is no longer the file that was planned with.
    """
    placed = piece.tensor
    raw = _read(placed.file, piece.runs, buffers.read).view(WORD_VIEWS[STORED_BYTES[placed.stored.dtype]])
    result = _pick(raw.reshape(-1, piece.row), piece, buffers)
    result = _converted(result, placed)
    _write(target, result, piece.start)


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


def _pick(raw: Raw, piece: Piece, buffers: Buffers) -> Raw:
    # The mode is one that lets numpy write straight into `out`; positions are in range by the plan.
    if piece.rows is not None:
        out = buffers.rows.view(raw.dtype)[: len(piece.rows) * piece.row].reshape(len(piece.rows), piece.row)
        raw = raw.take(piece.rows, axis=0, out=out, mode="clip")
    if piece.columns is not None:
        shape = (len(raw), len(piece.columns))
        out = buffers.columns.view(raw.dtype)[: shape[0] * shape[1]].reshape(shape)
        raw = raw.take(piece.columns, axis=1, out=out, mode="clip")
    return raw.reshape(-1)


def _converted(raw: Raw, placed: Placed) -> Raw:
    before, after, scale = placed.stored.dtype, placed.dtype, placed.cut.scale
    if before == after and scale == 1.0:
        return raw
    return convert(raw.view(FLOAT_VIEWS[before]), before=before, after=after, scale=scale)


def _write(target: Path, result: Raw, start: int) -> None:
    view: Any = result.view(np.uint8).data
    descriptor = os.open(target, os.O_WRONLY)
    try:
        written = 0
        while written < len(view):
            written += os.pwrite(descriptor, view[written:], start + written)
        # Begins to write the pages back, so that the sync at the shard's end has little left to wait for.
        drop_pages(descriptor, start, len(view))
    finally:
        os.close(descriptor)


def _is_whole(shard: Shard, journal: Journal) -> bool:
    if not journal.has(shard.name, shard.nbytes):
        return False
    with (journal.folder / shard.name).open("rb") as file:
        return file.read(len(shard.head)) == shard.head


def _allocated(path: Path) -> int:
    return path.stat().st_blocks * 512 if path.is_file() else 0
