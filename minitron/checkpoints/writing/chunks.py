"""Divides a cut into chunks of bounded size: runs of bytes to read, what to keep of them, and where the result goes."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from minitron.checkpoints.writing.layout import Placed
from minitron.dtypes import STORED_BYTES
from minitron.models.axes import Indices

# Dropped rows between kept ones are read through up to this many bytes: a disk gives them faster than a new request.
GAP_BYTES = 128 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some rows of a tensor; a row is what one index of the dim that is walked over holds.

    Attributes:
        tensor: The tensor that it is a part of.
        runs: First byte in the source file and number of bytes, to be read one after the other.
        row: Elements of a row in the source.
        rows: Which of the rows read are kept, in their new order; None for all as they come.
        columns: Which elements of a row are kept; None for all.
        start: First byte in the shard.
        nbytes: Bytes of the result.
    """

    tensor: Placed
    runs: tuple[tuple[int, int], ...]
    row: int
    rows: Indices | None
    columns: Indices | None
    start: int
    nbytes: int


def chunks_of(tensor: Placed, *, buffer_bytes: int) -> Iterator[Chunk]:
    """The chunks of a tensor, in the order of the result, each reading and giving at most `buffer_bytes`.

    A row of more bytes than that is itself walked over, dim by dim, down to single elements.
    """
    cut, width = tensor.cut, max(STORED_BYTES[tensor.stored.dtype], STORED_BYTES[tensor.dtype])
    if not math.prod(cut.after):
        return
    if any(indices is not None and indices.ndim > 1 for indices in cut.kept):
        for entry in _entries(tensor):
            yield from chunks_of(entry, buffer_bytes=buffer_bytes)
        return
    before, kept = (cut.before, cut.kept) if cut.before else ((1,), (None,))
    walked = next(
        (dim for dim in range(len(before)) if math.prod(before[dim + 1 :]) * width <= buffer_bytes), len(before) - 1
    )
    row = math.prod(before[walked + 1 :])
    columns = _columns(before[walked + 1 :], kept[walked + 1 :])
    outer = [range(size) if indices is None else indices.tolist() for size, indices in zip(before, kept, strict=True)]
    runs_rows = list(_walk(before[walked], kept[walked], row, tensor, max(1, buffer_bytes // (row * width))))
    out_width = STORED_BYTES[tensor.dtype] * (row if columns is None else len(columns))
    start = tensor.start
    for position in itertools.product(*outer[:walked]):
        first = int(np.ravel_multi_index(position, before[:walked])) if position else 0
        base = tensor.stored.start + first * before[walked] * row * STORED_BYTES[tensor.stored.dtype]
        for runs, rows, count in runs_rows:
            yield Chunk(
                tensor=tensor,
                runs=tuple((base + offset, nbytes) for offset, nbytes in runs),
                row=row,
                rows=rows,
                columns=columns,
                start=start,
                nbytes=count * out_width,
            )
            start += count * out_width


def _entries(tensor: Placed) -> Iterator[Placed]:
    """The kept entries of a stack whose entries keep positions of their own, as tensors one after the other."""
    cut, stored = tensor.cut, tensor.stored
    entries = range(cut.before[0]) if cut.kept[0] is None else cut.kept[0].tolist()
    inner = stored.nbytes // cut.before[0]
    start = tensor.start
    for number, entry in enumerate(entries):
        kept = tuple(indices if indices is None or indices.ndim == 1 else indices[number] for indices in cut.kept[1:])
        own = replace(
            tensor,
            cut=replace(cut, before=cut.before[1:], kept=kept),
            stored=replace(stored, shape=stored.shape[1:], start=stored.start + entry * inner),
            start=start,
        )
        yield own
        start += own.nbytes


def _walk(
    size: int, kept: Indices | None, row: int, tensor: Placed, most: int
) -> Iterator[tuple[list[tuple[int, int]], Indices | None, int]]:
    """Runs relative to the first row, the rows picked of what they read, and how many: `most` rows read at a time."""
    row_bytes = row * STORED_BYTES[tensor.stored.dtype]
    if kept is None:
        for first in range(0, size, most):
            count = min(most, size - first)
            yield [(first * row_bytes, count * row_bytes)], None, count
        return
    steps = np.diff(kept)
    joined = (steps > 0) & ((steps - 1) * row_bytes <= GAP_BYTES) & (steps <= most)
    # Where each kept row lies among the rows read: a joined step reads the dropped rows between, another only its own.
    places = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.where(joined, steps, 1))])
    first = 0
    while first < len(kept):
        stop = int(np.searchsorted(places, places[first] + most))
        heads = [first, *(np.flatnonzero(~joined[first : stop - 1]) + first + 1).tolist(), stop]
        runs = [
            (int(kept[head]) * row_bytes, int(kept[end - 1] - kept[head] + 1) * row_bytes)
            for head, end in itertools.pairwise(heads)
        ]
        rows = places[first:stop] - places[first]
        whole = int(rows[-1]) == len(rows) - 1
        yield runs, None if whole else rows, stop - first
        first = stop


def _columns(sizes: tuple[int, ...], kept: tuple[Indices | None, ...]) -> Indices | None:
    if all(indices is None for indices in kept):
        return None
    grid = np.zeros(1, dtype=np.int64)
    for size, indices in zip(sizes, kept, strict=True):
        inner = np.arange(size, dtype=np.int64) if indices is None else indices
        grid = (grid[:, None] * size + inner[None, :]).reshape(-1)
    return grid
