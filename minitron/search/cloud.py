"""Cloud: the shapes of a search space as a picture can show them, and the Pareto front of all that were counted."""

# S shapes

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from minitron.estimate.serving.workload import Workload
from minitron.models.axes import Indices
from minitron.models.shape import HybridShape
from minitron.progress import track
from minitron.search.limits import Limits, count_grid
from minitron.search.solver import Shares, retained_share
from minitron.search.space import SearchSpace, ShapeGrid

# Shapes that are counted at most, which takes seconds and 150 MB; of a larger space every so many-th grid is.
MOST_COUNTED = 2**23
# Points that a picture shows at most, and bins of bytes and of what is kept that more shapes are gathered in.
MOST_POINTS, BINS = 2000, (80, 40)

Values = npt.NDArray[np.float64]
EntryT = TypeVar("EntryT")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudPoint:
    """A shape, or several that lie close together.

    Attributes:
        total_bytes: Bytes that it needs; the mean of several.
        retained: Share of the importance that it keeps; the mean of several.
        shapes: How many it stands for.
        feasible: How many of them are within all limits.
    """

    total_bytes: float
    retained: float
    shapes: int
    feasible: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """A shape that no counted one of as few bytes keeps more than.

    Attributes:
        total_bytes: Bytes that it needs.
        retained: Share of the importance that it keeps.
        feasible: Whether it is within all limits.
        shape: The shape.
    """

    total_bytes: int
    retained: float
    feasible: bool
    shape: HybridShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """The shapes of a search space.

    Attributes:
        num_shapes: Shapes of the space.
        num_counted: Those that were counted: all, or those of evenly spread grids of a large space.
        num_possible: Those of them that the family can have, which points and front are of.
        num_feasible: Those of them that are within all limits.
        binned: Whether points stand for several shapes.
        points: What a picture shows.
        front: The Pareto front of bytes and what is kept, the fewest bytes first; thinned where it is long.
    """

    num_shapes: int
    num_counted: int
    num_possible: int
    num_feasible: int
    binned: bool
    points: tuple[CloudPoint, ...]
    front: tuple[FrontPoint, ...]


def count_cloud(
    space: SearchSpace,
    workload: Workload,
    limits: Limits,
    shares: Shares,
    *,
    most_counted: int = MOST_COUNTED,
    most_points: int = MOST_POINTS,
) -> Cloud:
    """Counts the shapes of a space as a search does, and gathers them for a picture.

    Args:
        space: The shapes.
        workload: What is served.
        limits: What candidates must keep to.
        shares: Importance that is kept, axis by axis.
        most_counted: Shapes that are counted at most, about.
        most_points: Points that are given at most; where there are more shapes, they are binned.
    """
    stride = -(-space.num_shapes // most_counted)
    grids = list(space.grids())[::stride]
    counted = [_count(grid, workload, limits, shares) for grid in track(grids, "count shapes", total=len(grids))]
    starts = np.cumsum([0, *(len(grid_S) for grid_S, _, _, _ in counted)])
    bytes_S, retained_S, feasible_S, possible_S = (np.concatenate(part) for part in zip(*counted, strict=True))
    places_S = np.flatnonzero(possible_S)
    bytes_S, retained_S, feasible_S = bytes_S[places_S], retained_S[places_S], feasible_S[places_S]
    binned = len(places_S) > most_points
    front = _thinned(pareto_places(bytes_S, retained_S), most_points // 10)
    return Cloud(
        num_shapes=space.num_shapes,
        num_counted=int(starts[-1]),
        num_possible=len(places_S),
        num_feasible=int(feasible_S.sum()),
        binned=binned,
        points=_bins(bytes_S, retained_S, feasible_S) if binned else _each(bytes_S, retained_S, feasible_S),
        front=tuple(
            FrontPoint(
                total_bytes=int(bytes_S[place]),
                retained=float(retained_S[place]),
                feasible=bool(feasible_S[place]),
                shape=_shape_at(grids, starts, int(places_S[place])),
            )
            for place in front
        ),
    )


def pareto_places(bytes_S: Indices, retained_S: Values) -> list[int]:
    """Where the shapes are that keep more than all of as few bytes, the fewest bytes first; of equal ones the first.

    >>> pareto_places(np.array([4, 1, 2, 2, 3]), np.array([0.9, 0.2, 0.5, 0.4, 0.5]))
    [1, 2, 0]
    """
    order_S = np.lexsort((-retained_S, bytes_S))
    best_S = np.maximum.accumulate(retained_S[order_S])
    before_S = np.concatenate([[-np.inf], best_S[:-1]])
    found: list[int] = order_S[retained_S[order_S] > before_S].tolist()
    return found


def _count(
    grid: ShapeGrid, workload: Workload, limits: Limits, shares: Shares
) -> tuple[Indices, Values, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    found = count_grid(grid, workload, limits)
    retained_S = grid.spread(retained_share(shares(grid.layers), grid.sizes, grid.source))
    possible_S = np.ones(len(found.total_bytes), dtype=bool) if found.possible is None else found.possible
    return found.total_bytes, retained_S, found.feasible, possible_S


def _shape_at(grids: Sequence[ShapeGrid], starts: Indices, place: int) -> HybridShape:
    which = int(np.searchsorted(starts, place, side="right")) - 1
    return grids[which].shape_at(place - int(starts[which]))


def _each(bytes_S: Indices, retained_S: Values, feasible_S: npt.NDArray[np.bool_]) -> tuple[CloudPoint, ...]:
    return tuple(
        CloudPoint(total_bytes=float(total), retained=float(retained), shapes=1, feasible=int(feasible))
        for total, retained, feasible in zip(bytes_S, retained_S, feasible_S, strict=True)
    )


def _bins(bytes_S: Indices, retained_S: Values, feasible_S: npt.NDArray[np.bool_]) -> tuple[CloudPoint, ...]:
    columns, rows = BINS
    bin_S = _bin(bytes_S.astype(np.float64), columns) * rows + _bin(retained_S, rows)
    shapes, total, retained, feasible = (
        np.bincount(bin_S, weights=weights, minlength=columns * rows)
        for weights in (np.ones(len(bin_S)), bytes_S, retained_S, feasible_S)
    )
    return tuple(
        CloudPoint(
            total_bytes=float(total[place] / shapes[place]),
            retained=float(retained[place] / shapes[place]),
            shapes=int(shapes[place]),
            feasible=int(feasible[place]),
        )
        for place in np.flatnonzero(shapes)
    )


def _bin(values_S: Values, bins: int) -> Indices:
    low, high = float(values_S.min()), float(values_S.max())
    width = (high - low) or 1.0
    return np.minimum((values_S - low) / width * bins, bins - 1).astype(np.int64)


def _thinned(entries: Sequence[EntryT], most: int) -> list[EntryT]:
    """Evenly spread entries, the first and the last among them."""
    if len(entries) <= most:
        return list(entries)
    return [entries[round(place)] for place in np.linspace(0, len(entries) - 1, most)]
