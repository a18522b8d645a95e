"""Axes: the named dims of a model's tensors, as data, and the index arithmetic that follows from them.

A tensor's dim is a concatenation of *parts*; a part is a row-major product of *axes* and plain numbers. The output dim
of a Mamba-2 `in_proj`, for example, is the concatenation [z, x, B, C, dt], where z and x run over (heads, channels of a
head), B and C over (groups, state) and dt over heads. Sizes, parameter counts and pruning all follow from such
declarations.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
# A size is one number, or an array of numbers where many shapes are counted at once.
SizeT = TypeVar("SizeT", int, npt.NDArray[np.int64])
# A number in a part is a run of so many entries for each entry before it, as [query, gate] of every attention head.
Part = tuple[str | int, ...]
Dim = tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A prunable axis.

    Attributes:
        name: The configuration key that holds its size, as Hugging Face spells it.
        blocks: The letters of the kinds of block that keep an index set of their own, layer by layer; None where one
            index set serves the whole model.
        grouped_by: The size whose entries own equal, contiguous runs of this one; every run keeps the same number. It
            may be an axis itself: then whole runs go with its entries.
        per: The axis of which every entry keeps an index set of its own, as every expert does of its neurons.
        used: The size that says how many of its entries a token goes to, where it goes to some of them only.
        at_least: The least that it can be, from the other sizes.
    """

    name: str
    blocks: str | None = None
    grouped_by: str | None = None
    per: str | None = None
    used: str | None = None
    at_least: Callable[[Mapping[str, int]], int] | None = None


# The tokens of the vocabulary: an axis that no family ranks or searches, and that is cut by the text alone.
VOCABULARY = Axis(name="vocab_size")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's name and, dim by dim, the axes it runs over.

    Attributes:
        name: Name on disk; of a stack with `{}` where the entry's number stands.
        dims: Dims of the tensor, of one entry in the case of a stack.
        stacked: The axis of a stack: there is one such tensor for each of its entries, or, where the name has no `{}`,
            one tensor of them all with that axis first.
        in_memory: Name in the loaded model where it is another. A stack is one tensor there, its axis first.
        fused: (number, of how many) where it is one of equal runs of the first dim (a stack's second) of the tensor in
            memory, as the gate and up projections of experts are.
        norm: What the model adds to a norm's weight before it multiplies: 0 or 1; None where it is no norm's weight.
        hidden_power: The power of `hidden_size` that the model itself multiplies by wherever the tensor is used.
        needs: A size without which (0) there is no such tensor.
        lacks: A size with which (not 0) there is no such tensor.
        routes: Whether it chooses the experts of a token, which no format quantizes.
    """

    name: str
    dims: tuple[Dim, ...]
    stacked: str | None = None
    in_memory: str | None = None
    fused: tuple[int, int] | None = None
    norm: float | None = None
    hidden_power: float = 0.0
    needs: str | None = None
    lacks: str | None = None
    routes: bool = False

    def exists(self, sizes: Mapping[str, SizeT]) -> bool:
        """Whether a model of these sizes, numbers or arrays, has the tensor."""
        needed = self.needs is None or bool(np.min(sizes[self.needs]) > 0)
        return needed and (self.lacks is None or bool(np.max(sizes[self.lacks]) == 0))

    @property
    def is_whole(self) -> bool:
        """Whether a stack is one tensor on disk, too."""
        return "{}" not in self.name

    def axes(self) -> set[str]:
        """Every axis that the tensor runs over."""
        found = {axis for dim in self.dims for part in dim for axis in part if isinstance(axis, str)}
        return found if self.stacked is None else found | {self.stacked}


def part_size(part: Part, sizes: Mapping[str, SizeT]) -> SizeT:
    """Length of a part: the product of its axes (1 for the empty part)."""
    factors = [axis if isinstance(axis, int) else sizes[axis] for axis in part]
    return math.prod(factors)  # type: ignore[arg-type, return-value]


def dim_size(dim: Dim, sizes: Mapping[str, SizeT]) -> SizeT:
    """Length of a dim: the sum over its parts.

    >>> dim_size((("heads", "channels"), ("heads",)), {"heads": 3, "channels": 5})
    18
    """
    return sum(part_size(part, sizes) for part in dim)  # type: ignore[return-value]


def part_range(dim: Dim, part_index: int, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Start and stop of one part inside its dim."""
    start = sum(part_size(part, sizes) for part in dim[:part_index])
    return start, start + part_size(dim[part_index], sizes)


def tensor_shape(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape that a tensor on disk must have at the given axis sizes."""
    dims = tuple(dim_size(dim, sizes) for dim in spec.dims)
    return (sizes[spec.stacked], *dims) if spec.stacked is not None and spec.is_whole else dims


def tensor_numel(spec: TensorSpec, sizes: Mapping[str, SizeT]) -> SizeT:
    """The number of elements of a tensor, or of a whole stack, at the given axis sizes."""
    numel = math.prod(dim_size(dim, sizes) for dim in spec.dims)
    return numel * stack_size(spec, sizes)


def entry_names(spec: TensorSpec, sizes: Mapping[str, int]) -> list[str]:
    """Names on disk of a tensor: one, or one for each entry of a stack that is kept apart."""
    if spec.stacked is None or spec.is_whole:
        return [spec.name]
    return [spec.name.format(entry) for entry in range(sizes[spec.stacked])]


def stack_size(spec: TensorSpec, sizes: Mapping[str, SizeT]) -> SizeT:
    """How many such tensors there are: the size of a stack's axis, else 1."""
    return 1 if spec.stacked is None else sizes[spec.stacked]  # type: ignore[return-value]


def kept_positions(dim: Dim, sizes: Mapping[str, int], keep: Mapping[str, Indices]) -> Indices | None:
    """Positions of a dim that survive when each axis keeps the given indices; None when none of its axes is cut.

    The order of the kept indices is the order of the result, so a permutation of a full axis permutes the dim.

    >>> dim = (("heads", "channels"), ("heads",))
    >>> kept_positions(dim, {"heads": 3, "channels": 2}, {"heads": np.array([0, 2])}).tolist()
    [0, 1, 4, 5, 6, 8]
    """
    if not any(axis in keep for part in dim for axis in part):
        return None
    offset, pieces = 0, []
    for part in dim:
        positions = np.zeros(1, dtype=np.int64)
        for axis in part:
            size = axis if isinstance(axis, int) else sizes[axis]
            kept = keep.get(axis) if isinstance(axis, str) else None
            indices = np.arange(size, dtype=np.int64) if kept is None else kept
            positions = (positions[:, None] * size + indices[None, :]).reshape(-1)
        pieces.append(positions + offset)
        offset += part_size(part, sizes)
    return np.concatenate(pieces)
