"""The sizes that a first search tries: every axis that is commonly cut, down to a floor at which something fits."""

import math
from collections.abc import Iterator, Mapping

from minitron.models.shape import HybridShape

# Axes that a first search cuts. Heads of attention stay, as in arXiv 2508.14444, and so do states and groups.
WIDTHS = (
    "hidden_size",
    "intermediate_size",
    "mamba_num_heads",
    "n_routed_experts",
    "moe_intermediate_size",
    "moe_shared_expert_intermediate_size",
)
# Shares of an axis that are tried. 9B of 12B kept 0.875 of hidden size, 0.75 of FFN, 0.875 of heads, 0.9 of blocks.
SHARES = (1.0, 0.9375, 0.875, 0.8125, 0.75, 0.6875, 0.625, 0.5625, 0.5, 0.4375, 0.375, 0.3125, 0.25)
FLOORS = (0.75, 0.625, 0.5, 0.375, 0.25)
# Blocks go in steps of a tenth, and down to the square root of a width's floor: each costs more than a width.
DEPTH_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)


def search_ladder(teacher: HybridShape) -> Iterator[Mapping[str, list[int]]]:
    """Sizes to try, axis by axis, each time further down than before; the last ones keep a quarter of every width.

    Sizes of a width are multiples that matrix kernels are fast at, as far as the teacher's own is one.

    Args:
        teacher: The shape that is cut.
    """
    for floor in FLOORS:
        sizes = {"num_hidden_layers": _depths(teacher.num_hidden_layers, math.sqrt(floor))}
        for axis in WIDTHS:
            if _has(teacher, axis):
                sizes[axis] = _widths(teacher, axis, floor)
        yield {axis: found for axis, found in sizes.items() if len(found) > 1}


def _has(teacher: HybridShape, axis: str) -> bool:
    """Whether some block of the teacher has the axis: a model of experts alone may name an FFN width that none has."""
    if axis not in teacher.family.axes or not teacher.sizes[axis]:
        return False
    blocks = teacher.family.axes[axis].blocks
    return blocks is None or any(teacher.counts[kind] for kind in blocks)


def _depths(blocks: int, floor: float) -> list[int]:
    return _distinct(round(blocks * share) for share in DEPTH_SHARES if share >= floor)


def _widths(teacher: HybridShape, axis: str, floor: float) -> list[int]:
    whole, multiple = teacher.sizes[axis], _multiple(teacher, axis)
    spec = teacher.family.axes[axis]
    least = multiple if spec.at_least is None else spec.at_least(teacher.sizes)
    shares = (int(whole * share) // multiple * multiple for share in SHARES if share >= floor)
    return _distinct(size for size in (whole, *shares) if size >= least)


def _multiple(teacher: HybridShape, axis: str) -> int:
    """What sizes of an axis are multiples of: groups, else a power of two up to a sixteenth of the teacher's."""
    spec = teacher.family.axes[axis]
    if spec.grouped_by is not None:
        return teacher.sizes[spec.grouped_by]
    sixteenth = max(1, teacher.sizes[axis] // 16)
    return int(min(256, 2 ** math.floor(math.log2(sixteenth))))


def _distinct(sizes: Iterator[int]) -> list[int]:
    return list(dict.fromkeys(size for size in sizes if size > 0))
