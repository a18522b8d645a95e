"""Reads and writes a checkpoint's weights as torch tensors, one or a run of its elements at a time."""

import logging
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from minitron.artifacts.atomic import sync_file
from minitron.checkpoints.checkpoint import Checkpoint, carried_files, left_behind
from minitron.checkpoints.headers import StoredTensor
from minitron.checkpoints.reading import fill
from minitron.checkpoints.rounding import Raw
from minitron.checkpoints.writing.shard_plan import Described, PlannedShard, plan_shards
from minitron.checkpoints.writing.shard_writer import write_shards
from minitron.dtypes import DTYPES, find_dtype
from minitron.errors import CheckpointError
from minitron.units import GIB

DEFAULT_SHARD_BYTES = 4 * GIB

logger = logging.getLogger(__name__)


@contextmanager
def open_weights(checkpoint: Checkpoint) -> Iterator[Callable[[str], torch.Tensor]]:
    """Gives a function that reads one tensor or scale by its name, in its stored dtype."""
    with ExitStack() as stack:
        files: dict[Path, Any] = {}

        def read(name: str) -> torch.Tensor:
            if name in checkpoint.spelling.on_disk:
                return _read_bytes(checkpoint.stored(name))
            file = checkpoint.stored(name).file
            if file not in files:
                files[file] = stack.enter_context(safe_open(file, framework="pt"))
            tensor: torch.Tensor = files[file].get_tensor(checkpoint.name_on_disk(name))
            return tensor

        yield read


def read_run(stored: StoredTensor, run: range, *, out: torch.Tensor, buffer: torch.Tensor) -> None:
    """Reads some elements of a stored tensor that follow one another, row by row, through a buffer.

    The file is not mapped: its pages would count as the process's memory.

    Args:
        stored: The tensor.
        run: Which of its elements.
        out: [len(run)] what takes them, of any dtype and on any device, in place.
        buffer: Bytes on the CPU that are overwritten, as many as whole numbers of the file take.

    Raises:
        CheckpointError: The file ends before that.
    """
    assert len(run) == len(out), f"{len(run)} elements of {stored.file} do not fit into {len(out)}"
    dtype = _torch_dtype(stored)
    numbers = buffer.view(dtype)
    with stored.file.open("rb", buffering=0) as file:
        file.seek(stored.start + run.start * dtype.itemsize)
        for part in torch.split(out, len(numbers)):
            read = numbers[: len(part)]
            fill(file, read.view(torch.uint8).numpy())
            part.copy_(read)


def _read_bytes(stored: StoredTensor) -> torch.Tensor:
    # One of a stack, or of another name: its place in the file is known all the same.
    raw = np.fromfile(stored.file, dtype=np.uint8, count=stored.nbytes, offset=stored.start)
    return torch.from_numpy(raw).view(_torch_dtype(stored)).reshape(stored.shape)


def _torch_dtype(stored: StoredTensor) -> torch.dtype:
    name = find_dtype(stored.dtype)
    assert name is not None
    dtype: torch.dtype = getattr(torch, str(DTYPES[name].torch))
    return dtype


def write_weights(
    folder: Path,
    planned: Mapping[str, Described],
    read: Callable[[str], torch.Tensor],
    *,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    spell: Callable[[str], str] = str,
) -> None:
    """Writes tensors into safetensors shards of at most `shard_bytes` (a larger tensor makes a shard of its own).

    One tensor is held in memory at a time. A single shard is named `model.safetensors`; several get an index.

    Args:
        folder: The checkpoint's folder.
        planned: Name -> safetensors dtype and shape, in the order of the files.
        read: Gives a tensor by its name.
        shard_bytes: Most bytes of tensors in a file.
        spell: Name -> what the files call it.

    Raises:
        CheckpointError: A tensor has another shape or dtype than planned.
        ArtifactError: The disk has too little room.
    """

    def chunks(name: str) -> Iterator[Raw]:
        tensor = read(name)
        if described(tensor) != planned[name]:
            raise CheckpointError(f"{name} must be {planned[name]} to be written, it is {described(tensor)}")
        yield _bytes(tensor.detach().cpu().contiguous())

    write_shards(folder, plan_shards(planned, shard_bytes=shard_bytes, spell=spell), chunks, what="the weights")


def write_pieces(folder: Path, shards: Sequence[PlannedShard], pieces: Callable[[str], Iterable[torch.Tensor]]) -> None:
    """Writes planned safetensors shards from tensors that come a piece at a time.

    Args:
        folder: The checkpoint's folder.
        shards: The plan.
        pieces: Gives a tensor by its name, in its planned dtype, in flat pieces on the CPU that follow one another.

    Raises:
        ArtifactError: The disk has too little room.
    """
    write_shards(folder, shards, lambda name: map(_bytes, pieces(name)), what="the weights")


def _bytes(tensor: torch.Tensor) -> Raw:
    return tensor.reshape(-1).view(torch.uint8).numpy()


def write_state(folder: Path, state: Mapping[str, torch.Tensor], *, shard_bytes: int = DEFAULT_SHARD_BYTES) -> None:
    """Writes tensors that are in memory, as `write_weights` does."""
    planned = {name: described(tensor) for name, tensor in state.items()}
    write_weights(folder, planned, state.__getitem__, shard_bytes=shard_bytes)


def described(tensor: torch.Tensor) -> Described:
    """A tensor's safetensors dtype and shape.

    >>> described(torch.zeros(2, 3, dtype=torch.bfloat16))
    ('BF16', (2, 3))
    """
    name = find_dtype(str(tensor.dtype).removeprefix("torch."))
    stored = None if name is None else DTYPES[name].safetensors
    if stored is None:
        raise CheckpointError(f"a tensor must be of a number format that safetensors files hold, got {tensor.dtype}")
    return stored, tuple(tensor.shape)


def carry_files(source: Checkpoint, output: Path, *, without: Collection[str] = ()) -> None:
    """Copies what a changed checkpoint carries along unchanged, and says in the log what it leaves behind."""
    copy_files([path for path in carried_files(source.folder) if path.name not in without], output)
    if left := left_behind(source):
        logger.warning("%s: not carried along from %s: %s", output, source.folder, ", ".join(left))


def copy_files(files: list[Path], folder: Path) -> None:
    """Copies files into a folder under their own names and syncs them."""
    for file in files:
        shutil.copyfile(file, folder / file.name)
        sync_file(folder / file.name)
