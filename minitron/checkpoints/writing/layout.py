"""Plans a pruned checkpoint: every tensor's cut, source and place in a shard, known before a byte is read."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Self

from minitron.artifacts.header import hash_inputs
from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.headers import StoredTensor
from minitron.checkpoints.writing.shard_plan import PlannedShard, plan_shards
from minitron.dtypes import FLOAT_VIEWS, STORED_BYTES
from minitron.errors import CheckpointError
from minitron.models.slicing import TensorCut

# Raised when the bytes that a layout stands for change, so that older unfinished work is not resumed.
LAYOUT_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file of the source as it was when the work was planned: path, size, and time of change in ns."""

    path: Path
    size_bytes: int
    mtime_ns: int

    @classmethod
    def at(cls, path: Path) -> Self:
        """The file as it is now."""
        status = path.stat()
        return cls(path=path, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A tensor of the pruned checkpoint: its cut, its source, its dtype on disk, and its first byte in the shard."""

    cut: TensorCut
    stored: StoredTensor
    file: SourceFile
    dtype: str
    start: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes in the shard."""
        return math.prod(self.cut.after) * STORED_BYTES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The shards of a pruned checkpoint.

    Attributes:
        shards: The planned files.
        tensors: Name -> cut, source and place of a tensor.
        inputs_hash: SHA-256 of everything that the bytes of the shards follow from.
    """

    shards: tuple[PlannedShard, ...]
    tensors: Mapping[str, Placed]
    inputs_hash: str


def plan_layout(source: Checkpoint, cuts: Iterable[TensorCut], *, shard_bytes: int, dtype: str | None = None) -> Layout:
    """Places the tensors, in the order of the cuts, in shards of at most `shard_bytes`.

    A larger tensor makes a shard of its own. A single shard is named `model.safetensors`.

    Args:
        source: The checkpoint that is cut.
        cuts: One for every tensor of the result.
        shard_bytes: Most bytes of tensors in a file.
        dtype: The safetensors dtype of the result; None keeps what each tensor is stored in.

    Raises:
        CheckpointError: A cut starts from a tensor that the source does not hold or from another shape of it, or a
            tensor that is not of floating point is to be converted or scaled.
    """
    if shard_bytes < 1:
        raise CheckpointError(f"shard_bytes must be positive, got {shard_bytes}")
    if dtype is not None and dtype not in FLOAT_VIEWS:
        raise CheckpointError(f"dtype must be one of {', '.join(FLOAT_VIEWS)}, got {dtype!r}")
    cuts = list(cuts)
    known = {**source.tensors, **source.extras}
    used = {cut.source: known[cut.source] for cut in cuts if cut.source in known}
    for cut in cuts:
        _check_cut(source, cut, used.get(cut.source), dtype)
    files = {path: SourceFile.at(path) for path in sorted({stored.file for stored in used.values()})}
    placed = {
        cut.name: Placed(
            cut=cut, stored=used[cut.source], file=files[used[cut.source].file], dtype=dtype or used[cut.source].dtype
        )
        for cut in cuts
    }
    shards = plan_shards(
        {name: (tensor.dtype, tensor.cut.after) for name, tensor in placed.items()},
        shard_bytes=shard_bytes,
        spell=source.name_to_write,
    )
    starts = {name: place.start for shard in shards for name, place in shard.tensors.items()}
    described = {
        "version": LAYOUT_VERSION,
        "config": source.config,
        "files": [(str(file.path.resolve()), file.size_bytes, file.mtime_ns) for file in files.values()],
        "tensors": [
            (name, stored.file.name, stored.dtype, stored.shape, stored.start) for name, stored in used.items()
        ],
        "cuts": [_describe(cut) for cut in cuts],
        "dtype": dtype,
        "shard_bytes": shard_bytes,
    }
    return Layout(
        shards=tuple(shards),
        tensors={name: replace(tensor, start=starts[name]) for name, tensor in placed.items()},
        inputs_hash=hash_inputs(described),
    )


def _check_cut(source: Checkpoint, cut: TensorCut, stored: StoredTensor | None, dtype: str | None) -> None:
    if stored is None:
        raise CheckpointError(f"a cut must start from a tensor of {source.folder}, it holds no {cut.source}")
    if stored.shape != cut.before:
        raise CheckpointError(f"{cut.source} must have the shape {cut.before}, {stored.file} stores {stored.shape}")
    if stored.dtype not in FLOAT_VIEWS and (cut.scale != 1.0 or dtype not in (None, stored.dtype)):
        raise CheckpointError(
            f"a tensor must be one of {', '.join(FLOAT_VIEWS)} to be scaled or converted, "
            f"{cut.source} in {stored.file} is {stored.dtype}"
        )


def _describe(cut: TensorCut) -> list[object]:
    kept = [None if dim is None else sha256(dim.astype("<i8").tobytes()).hexdigest() for dim in cut.kept]
    return [cut.name, cut.source, cut.before, kept, cut.scale, cut.plus]
