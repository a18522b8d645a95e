"""The search space: the sizes that each axis may take, as grids of shapes that numpy counts at once."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from minitron.errors import BudgetError
from minitron.models.axes import Indices
from minitron.models.shape import HybridShape

NumberT = TypeVar("NumberT", bound=np.generic)
# Multiples that matrix kernels are fast at; grouped axes go by the number of their groups instead.
KERNEL_MULTIPLES = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "mamba_head_dim": 8,
    "moe_intermediate_size": 64,
    "moe_shared_expert_intermediate_size": 64,
}
# Shapes counted at once: few enough that the arrays stay in cache, many enough that numpy's calls cost nothing.
GRID_SHAPES = 2**17


@dataclass(frozen=True, kw_only=True)
class ShapeGrid:
    """All combinations of some sizes, at one choice of blocks.

    Attributes:
        source: The shape that is pruned.
        layers: Kept blocks, as ascending indices of the source's.
        sizes: Axis -> size as an array; the arrays broadcast against each other.
    """

    source: HybridShape
    layers: tuple[int, ...]
    sizes: Mapping[str, Indices]

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Letter of a kind of block -> how many are kept."""
        return self.source.resized(layers=self.layers).counts

    @cached_property
    def dims(self) -> tuple[int, ...]:
        """Dims of the grid."""
        return np.broadcast_shapes(*(size.shape for size in self.sizes.values()))

    def spread(self, counted: npt.NDArray[NumberT]) -> npt.NDArray[NumberT]:
        """[shapes] a broadcastable array, flattened to one entry a shape."""
        return np.broadcast_to(counted, self.dims).reshape(-1)

    @cached_property
    def cut_sizes(self) -> Mapping[str, Indices]:
        """The sizes, but those of axes that no kept block has, which stay as they are."""
        axes = self.source.family.axes
        gone = {
            name for name, axis in axes.items() if axis.blocks and not any(self.counts[kind] for kind in axis.blocks)
        }
        return {
            name: np.full_like(sizes, self.source.sizes[name]) if name in gone else sizes
            for name, sizes in self.sizes.items()
        }

    def shape_at(self, index: int) -> HybridShape:
        """One shape of the grid."""
        sizes = {name: int(self.spread(self.cut_sizes[name])[index]) for name in self.source.family.axes}
        return self.source.resized(layers=self.layers, **sizes)


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The shapes that are searched.

    Attributes:
        source: The shape that is pruned.
        layers: For each choice of depth the kept blocks, as ascending indices of the source's.
        sizes: Axis -> sizes to try; an axis that is not named keeps the source's.
        intermediate_ratios: FFN widths as multiples of `hidden_size`, in place of sizes of `intermediate_size`.

    Raises:
        BudgetError: A size exceeds the source's, breaks a group, or is named twice; or a ratio gives no whole number.
    """

    source: HybridShape
    layers: tuple[tuple[int, ...], ...]
    sizes: Mapping[str, tuple[int, ...]]
    intermediate_ratios: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise BudgetError(f"choices of depth must differ, got {[len(layers) for layers in self.layers]}")
        for axis, sizes in self.sizes.items():
            check_sizes(self.source, axis, sizes)
        if self.intermediate_ratios:
            if "intermediate_size" in self.sizes:
                raise BudgetError("search.intermediate_ratio and search.intermediate_size exclude each other")
            self._ratio_sizes()

    @property
    def num_shapes(self) -> int:
        """Shapes in the space."""
        options = math.prod(len(sizes) for sizes in self._options().values())
        return len(self.layers) * options * max(1, len(self.intermediate_ratios))

    def grids(self) -> Iterator[ShapeGrid]:
        """The space in grids of about `GRID_SHAPES` shapes."""
        for layers in self.layers:
            for leading in self._leading():
                yield ShapeGrid(source=self.source, layers=layers, sizes=self._mesh(leading))

    def _options(self) -> dict[str, tuple[int, ...]]:
        return {axis: self._sizes_of(axis) for axis in self.source.family.axes}

    def _sizes_of(self, axis: str) -> tuple[int, ...]:
        """Sizes of an axis: as given, or, where the axis that groups it is searched, whole groups."""
        if axis in self.sizes:
            return self.sizes[axis]
        size, owner = self.source.sizes[axis], self.source.family.axes[axis].grouped_by
        if owner is None or owner not in self.sizes:
            return (size,)
        return tuple(size // self.source.sizes[owner] * groups for groups in self.sizes[owner])

    def _leading(self) -> Iterator[dict[str, tuple[int, ...]]]:
        # The first axis is cut into runs so that a run of it, with all the others, is about one grid.
        options = self._options()
        first, sizes = max(options.items(), key=lambda option: len(option[1]))
        rest = max(1, self.num_shapes // len(self.layers) // len(sizes))
        run = max(1, GRID_SHAPES // rest)
        for start in range(0, len(sizes), run):
            yield options | {first: sizes[start : start + run]}

    def _mesh(self, options: Mapping[str, tuple[int, ...]]) -> dict[str, Indices]:
        ranks = len(options) + 1
        sizes: dict[str, Indices] = {
            key: np.full((1,) * ranks, size, dtype=np.int64) for key, size in self.source.sizes.items()
        }
        for position, (axis, chosen) in enumerate(options.items()):
            dims = [1] * ranks
            dims[position] = len(chosen)
            sizes[axis] = np.asarray(chosen, dtype=np.int64).reshape(dims)
        if self.intermediate_ratios:
            ratios = np.asarray(self.intermediate_ratios).reshape((1,) * (ranks - 1) + (-1,))
            sizes["intermediate_size"] = np.rint(ratios * sizes["hidden_size"]).astype(np.int64)
        return sizes

    def _ratio_sizes(self) -> None:
        for hidden_size in self._options()["hidden_size"]:
            for ratio in self.intermediate_ratios:
                width = ratio * hidden_size
                if not math.isfinite(width) or abs(width - round(width)) > 1e-6 * width:
                    raise BudgetError(
                        f"search.intermediate_ratio must give whole numbers, {ratio} x {hidden_size} is {width}"
                    )
                if width > self.source.intermediate_size:
                    raise BudgetError(
                        f"search.intermediate_ratio must give sizes up to the teacher's "
                        f"{self.source.intermediate_size}, {ratio} x {hidden_size} is {width:.0f}"
                    )


def check_sizes(source: HybridShape, axis: str, sizes: tuple[int, ...]) -> None:
    """Checks that a source can be pruned to sizes of an axis.

    Raises:
        BudgetError: A size exceeds the source's or breaks a group, or there are none.
    """
    if axis not in source.family.axes:
        raise BudgetError(f"an axis must be one of {', '.join(source.family.axes)}, got {axis!r}")
    if len(set(sizes)) < len(sizes):
        raise BudgetError(f"search.{axis} must hold each size once, got {list(sizes)}")
    if not sizes or max(sizes) > source.sizes[axis] or min(sizes) < 1:
        raise BudgetError(f"search.{axis} must hold sizes up to the teacher's {source.sizes[axis]}, got {list(sizes)}")
    at_least = source.family.axes[axis].at_least
    if at_least is not None and min(sizes) < at_least(source.sizes):
        raise BudgetError(f"search.{axis} must hold sizes from {at_least(source.sizes)}, got {list(sizes)}")
    grouped_by = source.family.axes[axis].grouped_by
    owned = (
        grouped_by in source.family.axes
    )  # then groups may go, too: `Family.is_possible` sees which sizes go together
    groups = 1 if grouped_by is None or owned else source.sizes[grouped_by]
    odd = [size for size in sizes if size % groups]
    if odd:
        raise BudgetError(f"search.{axis} must hold multiples of {grouped_by}={groups}, got {odd}")


def size_range(
    source: HybridShape, axis: str, *, low: int, high: int | None = None, step: int | None = None
) -> tuple[int, ...]:
    """Sizes from high to low, in steps that matrix kernels are fast at.

    Args:
        source: The shape that is pruned.
        axis: The axis.
        low: Smallest size.
        high: Largest size; the source's when None.
        step: The sizes are multiples of it (and the source's own size when it is `high`); 64 for hidden and FFN, 8 for
            the channels of a Mamba head, the number of groups for heads when None.

    Raises:
        BudgetError: No size is in the range.
    """
    spec = source.family.axes[axis]
    groups = 1 if spec.grouped_by is None else source.sizes[spec.grouped_by]
    step = step or KERNEL_MULTIPLES.get(axis, groups)
    top = source.sizes[axis] if high is None else high
    sizes = tuple(size for size in range(top // step * step, low - 1, -step) if size > 0)
    if top == source.sizes[axis] and top not in sizes:
        sizes = (top, *sizes)
    if not sizes:
        raise BudgetError(f"search.{axis} must hold a multiple of {step} between {low} and {top}, there is none")
    return sizes
