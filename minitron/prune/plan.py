"""A plan of pruning: which indices of every axis survive, and the shape that is promised."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from minitron.artifacts.array_files import ArrayFileError, read_array_file, write_array_file
from minitron.errors import MinitronError
from minitron.models.axes import VOCABULARY, Indices
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape

_LAYER = re.compile(r"\d{1,6}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """What a plan's file says of its arrays."""

    source: HybridShape
    target: HybridShape
    layers: tuple[int, ...]
    scales: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunePlan:
    """Source shape, target shape, and what survives from one to the other.

    Attributes:
        source: Shape before.
        target: Shape after.
        keep: Kept blocks, and kept indices of every axis that is cut.
        scales: Name on disk before -> factor, of tensors that are scaled while they are cut.

    Raises:
        MinitronError: The kept indices do not lead from the source to the target, or break a group; or a scaled tensor
            is none of the source's.
    """

    source: HybridShape
    target: HybridShape
    keep: Keep
    scales: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        blocks = self.source.num_hidden_layers
        if not all(0 <= layer < blocks for layer in (*self.keep.layers, *(n or 0 for _, n in self.keep.indices))):
            raise MinitronError(f"a plan's blocks must be among the source's {blocks}, they are not")
        for (axis, layer), kept in self.keep.indices.items():
            self._check_indices(axis, layer, kept)
        unknown = sorted(set(self.scales) - set(self.source.tensors()))
        if unknown:
            raise MinitronError(f"a scaled tensor must be one of the source's, got {unknown[0]}")
        left = self.keep.shape(self.source)
        if left != self.target:
            raise MinitronError(f"kept indices must lead to the target {self.target}, they lead to {left}")

    def _check_indices(self, name: str, layer: int | None, kept: Indices) -> None:
        sizes = self.source.sizes
        axis = VOCABULARY if name == VOCABULARY.name else self.source.family.axes[name]
        rows = kept if axis.per is not None else kept[None]
        if axis.per is not None and (kept.ndim != 2 or len(kept) != sizes[axis.per]):
            raise MinitronError(
                f"kept indices of {name} at layer {layer} must be a row for each of {sizes[axis.per]} {axis.per}, "
                f"got the shape {kept.shape}"
            )
        size = sizes[name]
        distinct = all(len(np.unique(row)) == len(row) for row in rows)
        if not distinct or not rows.size or rows.min() < 0 or rows.max() >= size:
            raise MinitronError(f"kept indices of {name} at layer {layer} must be distinct and below {size}")
        if axis.grouped_by is not None:
            groups = np.arange(sizes[axis.grouped_by])
            _check_groups(kept, name, layer, size, groups, self.keep.indices.get((axis.grouped_by, layer), groups))
        owned = self.source.family.owners.get(name)
        if owned is not None and (owned, layer) not in self.keep.indices:
            raise MinitronError(f"kept indices of {name} at layer {layer} need those of {owned}, which go with them")


def save_plan(plan: PrunePlan, path: Path) -> None:
    """Writes a plan as one safetensors file."""
    arrays = {f"{axis}@{'' if layer is None else layer}": kept for (axis, layer), kept in plan.keep.indices.items()}
    header = {
        "source": asdict(plan.source),
        "target": asdict(plan.target),
        "layers": plan.keep.layers,
        "scales": plan.scales,
    }
    write_array_file(path, header, arrays)


def load_plan(path: Path) -> PrunePlan:
    """Reads a plan back.

    Raises:
        MinitronError: The file is missing or is not a plan.
    """
    try:
        header, arrays = read_array_file(path)
        described = TypeAdapter(_Described).validate_python(header)
    except (ArrayFileError, ValidationError) as error:
        raise MinitronError(f"a plan file is expected at {path}: {error}") from error
    indices: dict[tuple[str, int | None], Indices] = {}
    for name, kept in arrays.items():
        axis, _, layer = name.partition("@")
        if axis not in (*described.source.family.axes, VOCABULARY.name) or (layer and not _LAYER.fullmatch(layer)):
            raise MinitronError(f"a plan file is expected at {path}: {name!r} is no axis of its source")
        if kept.dtype.kind not in "iu" or kept.ndim not in (1, 2) or not kept.size:
            raise MinitronError(f"a plan file is expected at {path}: {name!r} must hold indices, it is {kept.dtype}")
        indices[axis, int(layer) if layer else None] = kept.astype(np.int64)
    keep = Keep(layers=described.layers, indices=indices)
    return PrunePlan(source=described.source, target=described.target, keep=keep, scales=described.scales)


def _check_groups(
    kept: Indices, axis: str, layer: int | None, size: int, groups: Indices, kept_groups: Indices
) -> None:
    owners = kept // (size // len(groups))
    expected = np.repeat(kept_groups, len(kept) // len(kept_groups))
    if len(kept) % len(kept_groups) or not np.array_equal(owners, expected):
        raise MinitronError(
            f"kept {axis} at layer {layer} must take the same number from each of {len(kept_groups)} groups, in group "
            f"order, got {np.bincount(owners, minlength=len(groups)).tolist()}"
        )
