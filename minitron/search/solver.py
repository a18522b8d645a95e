"""The budget solver: counts every shape of a space and gives the best of those within all limits."""

import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from minitron.errors import BudgetError
from minitron.estimate.serving.memory import MemoryBytes, memory_bytes
from minitron.estimate.serving.throughput import predict_tokens_per_second
from minitron.estimate.serving.workload import Workload
from minitron.models.axes import SizeT
from minitron.models.shape import HybridShape
from minitron.search.limits import CountedGrid, Limits, Nearest, count_grid
from minitron.search.space import SearchSpace, ShapeGrid

# (kept blocks) -> axis -> [size + 1] fraction of importance kept by the best units of each number; `layers` -> [1].
Shares = Callable[[tuple[int, ...]], Mapping[str, npt.NDArray[np.float64]]]
RANKINGS = ("memory", "importance", "throughput")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A shape within the limits.

    Attributes:
        shape: The pruned shape.
        layers: Kept blocks, as ascending indices of the source's.
        memory: Bytes that it needs.
        retained: Fraction of the teacher's importance that it keeps, the product over its axes; None without scores.
        tokens_per_s: Predicted output tokens a second; None without a device.
    """

    shape: HybridShape
    layers: tuple[int, ...]
    memory: MemoryBytes
    retained: float | None = None
    tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The best candidates first, with the number of shapes that were counted and that are within the limits."""

    candidates: tuple[Candidate, ...]
    num_shapes: int
    num_feasible: int


class NothingFitsError(BudgetError):
    """No shape of the search space is within the limits."""


def solve_budget(
    space: SearchSpace,
    workload: Workload,
    limits: Limits,
    *,
    top_k: int,
    rank_by: str = "memory",
    shares: Shares | None = None,
) -> SearchResult:
    """The `top_k` best shapes within the limits.

    Args:
        space: The shapes to look at.
        workload: What is served.
        limits: What candidates must keep to.
        top_k: How many candidates to give.
        rank_by: memory, the largest first (the published rule: arXiv 2508.14444); importance, what keeps most; or
            throughput, the fastest by prediction.
        shares: Importance that is kept, axis by axis; needed to rank by it.

    Raises:
        NothingFitsError: No shape is within the limits; the message says which limit binds, by how much, and what is
            nearest.
        BudgetError: The ranking is unknown, or lacks scores or a device.
    """
    if rank_by not in RANKINGS:
        raise BudgetError(f"rank_by must be one of {', '.join(RANKINGS)}, got {rank_by!r}")
    if rank_by == "importance" and shares is None:
        raise BudgetError("ranking by importance needs scores")
    if rank_by == "throughput" and limits.device is None:
        raise BudgetError("ranking by throughput needs a device that it is predicted for")
    nearest = Nearest(workload, limits)
    best: list[tuple[float, int, ShapeGrid, int]] = []  # (rank, - order, grid, index in it), the worst first
    num_feasible = order = 0
    for grid in space.grids():
        counted = count_grid(grid, workload, limits, with_throughput=rank_by == "throughput")
        feasible = np.flatnonzero(counted.feasible)
        num_feasible += len(feasible)
        if not num_feasible:
            nearest.see(grid, counted)
        if len(feasible):
            rank = _rank(grid, counted, rank_by, shares)[feasible]
            top = np.argsort(-rank, kind="stable")[:top_k]
            for position in top.tolist():
                order += 1
                entry = (float(rank[position]), -order, grid, int(feasible[position]))
                (heapq.heappushpop if len(best) == top_k else heapq.heappush)(best, entry)
    if not num_feasible:
        raise NothingFitsError(nearest.explain())
    candidates = [_candidate(grid, index, workload, limits, shares) for _, _, grid, index in sorted(best, reverse=True)]
    return SearchResult(candidates=tuple(candidates), num_shapes=space.num_shapes, num_feasible=num_feasible)


def axis_shares(
    shares: Mapping[str, npt.NDArray[np.float64]], sizes: Mapping[str, SizeT], source: HybridShape
) -> dict[str, npt.NDArray[np.float64]]:
    """Axis -> fraction of its importance that sizes keep, `layers` included; for one shape or for arrays of sizes.

    Where groups go as a whole, the units that are left count by how many of each group stay.
    """
    owners = {axis: owner for owner, axis in source.family.owners.items()}
    kept = {"layers": np.asarray(shares["layers"][0])}
    for axis, share in shares.items():
        if axis == "layers":
            continue
        size = np.asarray(sizes[axis])
        if axis in owners and source.sizes[axis]:
            groups = np.maximum(1, np.asarray(sizes[owners[axis]]))
            size = np.minimum(size // groups * source.sizes[owners[axis]], source.sizes[axis])
        kept[axis] = np.asarray(share[size])
    return kept


def retained_share(
    shares: Mapping[str, npt.NDArray[np.float64]], sizes: Mapping[str, SizeT], source: HybridShape
) -> npt.NDArray[np.float64]:
    """Fraction of importance kept, the product over the axes; for one shape or for arrays of sizes."""
    kept = axis_shares(shares, sizes, source)
    return np.asarray(math.prod(kept.values(), start=np.asarray(1.0)))


def _rank(grid: ShapeGrid, counted: CountedGrid, rank_by: str, shares: Shares | None) -> npt.NDArray[np.float64]:
    if rank_by == "importance" and shares is not None:
        return np.broadcast_to(retained_share(shares(grid.layers), grid.sizes, grid.source), grid.dims).reshape(-1)
    if rank_by == "throughput" and counted.tokens_per_s is not None:
        return counted.tokens_per_s
    return counted.total_bytes.astype(np.float64)


def _candidate(grid: ShapeGrid, index: int, workload: Workload, limits: Limits, shares: Shares | None) -> Candidate:
    shape = grid.shape_at(index)
    speed = None
    if limits.device is not None:
        speed = predict_tokens_per_second(shape, workload, limits.device, limits.lengths, limits.budget_bytes)
    return Candidate(
        layers=grid.layers,
        shape=shape,
        memory=memory_bytes(shape, workload),
        tokens_per_s=speed,
        retained=None if shares is None else float(retained_share(shares(grid.layers), shape.sizes, grid.source)),
    )
