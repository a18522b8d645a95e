"""A plan of pruning: which indices of every axis survive, and the shape that is promised."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from minitron.hybrid.axes import Indices
from minitron.hybrid.shape import HybridShape
from minitron.hybrid.slicing import Keep


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunePlan:
    """Source shape, target shape, and what survives from one to the other.

    Raises:
        ValueError: The kept indices do not lead from the source to the target, or break a group.
    """

    source: HybridShape
    target: HybridShape
    keep: Keep

    def __post_init__(self) -> None:
        for (axis, layer), kept in self.keep.indices.items():
            size = self.source.sizes[axis]
            if len(set(kept.tolist())) != len(kept) or kept.min() < 0 or kept.max() >= size:
                raise ValueError(f"kept indices of {axis} at layer {layer} must be distinct and below {size}")
            grouped_by = self.source.family.axes[axis].grouped_by
            if grouped_by is not None:
                _check_groups(kept, axis, layer, size, self.source.sizes[grouped_by])
        left = self.keep.shape(self.source)
        if left != self.target:
            raise ValueError(f"kept indices must lead to the target {self.target}, they lead to {left}")


def save_plan(plan: PrunePlan, path: Path) -> None:
    """Writes a plan as one safetensors file."""
    arrays = {f"{axis}@{'' if layer is None else layer}": kept for (axis, layer), kept in plan.keep.indices.items()}
    header = {"source": asdict(plan.source), "target": asdict(plan.target), "layers": plan.keep.layers}
    save_file(arrays or {"none": np.zeros(1, dtype=np.int64)}, path, metadata={"minitron": json.dumps(header)})


def load_plan(path: Path) -> PrunePlan:
    """Reads a plan back.

    Raises:
        ValueError: The file is missing or is not a plan.
    """
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})["minitron"])
            arrays = {name: file.get_tensor(name) for name in file.keys() if name != "none"}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"a plan file is expected at {path}: {error}") from error
    indices: dict[tuple[str, int | None], Indices] = {}
    for name, kept in arrays.items():
        axis, _, layer = name.partition("@")
        indices[axis, int(layer) if layer else None] = kept
    return PrunePlan(
        source=HybridShape(**header["source"]),
        target=HybridShape(**header["target"]),
        keep=Keep(layers=tuple(header["layers"]), indices=indices),
    )


def _check_groups(kept: Indices, axis: str, layer: int | None, size: int, groups: int) -> None:
    per_group = size // groups
    owners = kept // per_group
    expected = np.repeat(np.arange(groups), len(kept) // groups)
    if len(kept) % groups or not np.array_equal(owners, expected):
        raise ValueError(
            f"kept {axis} at layer {layer} must take the same number from each of {groups} groups, in group order, "
            f"got {np.bincount(owners, minlength=groups).tolist()}"
        )
