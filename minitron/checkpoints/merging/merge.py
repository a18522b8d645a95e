"""Merges checkpoints of one shape: a weighted average, tensor by tensor, streamed through small buffers.

Source: arXiv 2508.14444 (Nemotron Nano 2), whose last step is such a merge of two checkpoints, half of each.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from minitron.artifacts.atomic import sync_folder
from minitron.artifacts.finished import require_free
from minitron.artifacts.json_files import write_json
from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.checkpoints.headers import StoredTensor
from minitron.checkpoints.merging.mergeable import check_mergeable, interpolation_weights
from minitron.checkpoints.reading import fill
from minitron.checkpoints.rounding import Raw, narrow_fp64, widen
from minitron.checkpoints.weights import DEFAULT_SHARD_BYTES, carry_files
from minitron.checkpoints.writing.shard_plan import plan_shards
from minitron.checkpoints.writing.shard_writer import write_shards
from minitron.dtypes import FLOAT_VIEWS, INTEGER_VIEWS, STORED_BYTES, WORD_VIEWS
from minitron.progress import progress_bar

logger = logging.getLogger(__name__)

CHUNK_NUMBERS = 2**17  # 1 MiB of fp64, which a core's cache holds
Fp64 = npt.NDArray[np.float64]


def merge_checkpoints(
    sources: Sequence[Checkpoint],
    weights: Sequence[float],
    output: Path,
    *,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    chunk_numbers: int = CHUNK_NUMBERS,
) -> Checkpoint:
    """Writes the weighted sum of checkpoints into an empty folder, with all that is not weights from the first one.

    Every number is summed in fp64 and rounded once, to nearest and ties to even, to the dtype in which the first one
    stores its tensor; integers go to the nearest one. A number that all of them store alike stays as it is, to the bit,
    as does a checkpoint of weight 1. Beside one buffer a checkpoint, a few of their size are held. `config.json` comes
    last, so that nothing unfinished opens as a checkpoint.

    Args:
        sources: Two checkpoints or more, of one shape and one vocabulary, however padded; they are only read.
        weights: One for each, as `interpolation_weights` takes them.
        output: The folder.
        shard_bytes: Most bytes of tensors in a file.
        chunk_numbers: How many numbers of a tensor are summed at a time.

    Raises:
        CheckpointError: The checkpoints cannot be merged, the weights do not sum to 1, or a source ends while it is
            read.
        ArtifactError: The folder holds something, or the disk has too little room.
    """
    started = time.monotonic()
    shares = interpolation_weights(weights, len(sources))
    check_mergeable(sources)
    require_free(output)
    output.mkdir(parents=True, exist_ok=True)
    first = sources[0]
    planned = {name: (stored.dtype, stored.shape) for name, stored in {**first.tensors, **first.extras}.items()}
    shards = plan_shards(planned, shard_bytes=shard_bytes, spell=first.name_to_write)
    with progress_bar(of_bytes=True) as progress:
        task = progress.add_task("merge", total=sum(shard.nbytes for shard in shards))

        def chunks(name: str) -> Iterator[Raw]:
            common, rest = _by_rows([source.stored(name) for source in sources])
            merged = merged_chunks(common, shares, numbers=chunk_numbers)
            for chunk in chain(merged, merged_chunks(rest, [1.0] * len(rest), numbers=chunk_numbers)):
                yield chunk
                progress.advance(task, chunk.nbytes)

        write_shards(output, shards, chunks, what="the merged checkpoint")
    carry_files(first, output)
    write_json(output / "config.json", first.config)
    sync_folder(output)
    merged = open_checkpoint(output)
    seconds = time.monotonic() - started
    logger.info("merged %d checkpoints of %d parameters in %.1f s", len(sources), merged.params, seconds)
    return merged


def _by_rows(parts: Sequence[StoredTensor]) -> tuple[list[StoredTensor], list[StoredTensor]]:
    """The rows that all versions of a tensor have, and the first one's beyond them: padding of its vocabulary."""
    first, rows = parts[0], min((part.shape[0] for part in parts if part.shape), default=0)
    common = [replace(part, shape=(rows, *part.shape[1:])) if part.shape else part for part in parts]
    left = first.numel - common[0].numel
    if not left:
        return common, []
    beyond = replace(first, shape=(left,), start=first.start + common[0].nbytes)
    return common, [beyond]


def merged_chunks(parts: Sequence[StoredTensor], shares: Sequence[float], *, numbers: int) -> Iterator[Raw]:
    """The weighted sum of a tensor's versions, as raw runs of at most `numbers` numbers, in the first one's dtype."""
    if not parts:
        return
    dtype, numel = parts[0].dtype, parts[0].numel
    # One that counts for nothing is not read: 0 times infinity is no number, and plus 0 takes a zero's sign.
    used = [(part, share) for part, share in zip(parts, shares, strict=True) if share]
    most = min(numbers, numel)
    with ExitStack() as stack:
        opened = []
        for part, share in used:
            file = stack.enter_context(part.file.open("rb", buffering=0))
            file.seek(part.start)
            opened.append((file, np.empty(most, dtype=WORD_VIEWS[STORED_BYTES[part.dtype]]), part.dtype, share))
        for begin in range(0, numel, numbers):
            count = min(numbers, numel - begin)
            runs = []
            for file, buffer, stored_as, share in opened:
                fill(file, buffer[:count])
                runs.append((buffer[:count], stored_as, share))
            yield _merge(runs, dtype)


def _merge(runs: Sequence[tuple[Raw, str, float]], dtype: str) -> Raw:
    with np.errstate(over="ignore", invalid="ignore"):
        summed: Fp64 | None = None
        for raw, stored_as, share in runs:
            wide = _wide(raw, stored_as)
            wide *= share
            summed = wide if summed is None else np.add(summed, wide, out=summed)
        assert summed is not None
        merged = _rounded(summed, dtype).view(WORD_VIEWS[STORED_BYTES[dtype]])
    if all(stored_as == dtype for _, stored_as, _ in runs):
        # The shares sum to 1, but for the last bit: what is the same in all of them is the sum.
        alike = np.ones(len(merged), dtype=bool)
        for raw, _, _ in runs[1:]:
            alike &= raw == runs[0][0]
        np.copyto(merged, runs[0][0], where=alike)
    return merged


def _wide(raw: Raw, dtype: str) -> Fp64:
    if dtype == "BF16":
        return widen(raw, dtype).astype(np.float64)
    return raw.view((FLOAT_VIEWS | INTEGER_VIEWS)[dtype]).astype(np.float64)


def _rounded(numbers: Fp64, dtype: str) -> Raw:
    if dtype not in INTEGER_VIEWS:
        return narrow_fp64(numbers, dtype)
    # The last fp64 below the first integer that is too large: what lies beyond the range ends at its border.
    limits = np.iinfo(INTEGER_VIEWS[dtype])
    largest = math.nextafter(float(limits.max + 1), 0)
    return np.clip(np.rint(numbers), float(limits.min), largest).astype(INTEGER_VIEWS[dtype])
