"""Summaries of pruning plans: what a plan cuts, and how two plans differ."""

from collections.abc import Iterable, Iterator
from typing import TypedDict

import numpy as np

from minitron.errors import MinitronError
from minitron.models.axes import Indices
from minitron.prune.plan import PrunePlan


class CutSummary(TypedDict):
    """A set of units that a plan cuts; `layer` is None for a model-wide axis, `entry` is the expert that owns it."""

    axis: str
    layer: int | None
    entry: int | None
    kept: int
    of: int
    indices: str


class CutDifference(TypedDict):
    """A set of units of which two plans keep different ones; `common` is the fraction of the larger set."""

    axis: str
    layer: int | None
    entry: int | None
    common: float
    only_first: str
    only_second: str


class PlanSummary(TypedDict):
    """What a plan keeps and cuts."""

    params: dict[str, int]
    layers: list[int]
    removed_layers: list[int]
    sizes: dict[str, dict[str, int]]
    cuts: list[CutSummary]
    scales: dict[str, float]


class PlanDifference(TypedDict):
    """How two plans for one source differ."""

    same: bool
    params: dict[str, int]
    layers_only_first: list[int]
    layers_only_second: list[int]
    sizes: dict[str, dict[str, int]]
    cuts: list[CutDifference]
    scales_differ: bool


# (axis, block of the source or None for a model-wide axis, entry of the axis that owns the set or None)
UnitSet = tuple[str, int | None, int | None]


def describe_plan(plan: PrunePlan) -> PlanSummary:
    """What a plan keeps and cuts.

    `cuts` has one entry for each set of units: the axis, the source's block (null for a model-wide axis), how many of
    how many are kept, and the kept indices as runs such as "0-5,7".
    """
    return {
        "params": {"before": plan.source.params, "after": plan.target.params},
        "layers": list(plan.keep.layers),
        "removed_layers": sorted(set(range(plan.source.num_hidden_layers)) - set(plan.keep.layers)),
        "sizes": {
            name: {"before": plan.source.sizes[name], "after": plan.target.sizes[name]}
            for name in plan.source.family.axes
            if plan.source.sizes[name]
        },
        "cuts": [
            {"axis": axis, "layer": layer, "entry": entry, "kept": len(kept), "of": size, "indices": as_runs(kept)}
            for (axis, layer, entry), kept, size in _index_sets(plan)
        ],
        "scales": dict(plan.scales),
    }


def diff_plans(one: PrunePlan, other: PrunePlan) -> PlanDifference:
    """How two plans for one source differ.

    `cuts` has the sets of units that differ, with the share of the larger set that both keep; an axis that a plan does
    not cut counts as kept whole.

    Raises:
        MinitronError: The plans start from different shapes.
    """
    if one.source != other.source:
        raise MinitronError(f"plans must start from one shape to be compared, got {one.source} and {other.source}")
    cuts: list[CutDifference] = []
    first, second = ({key: kept for key, kept, _ in _index_sets(plan)} for plan in (one, other))
    for axis, layer, entry in sorted({*first, *second}, key=_order):
        whole = np.arange(one.source.sizes[axis])
        a, b = (set(sets.get((axis, layer, entry), whole).tolist()) for sets in (first, second))
        gone = layer is not None and not {layer} & set(one.keep.layers) & set(other.keep.layers)
        if a != b and not gone:
            common = len(a & b) / max(len(a), len(b))
            cuts.append(
                {
                    "axis": axis,
                    "layer": layer,
                    "entry": entry,
                    "common": common,
                    "only_first": as_runs(sorted(a - b)),
                    "only_second": as_runs(sorted(b - a)),
                }
            )
    return {
        "same": one.keep.layers == other.keep.layers and not cuts and one.scales == other.scales,
        "params": {"first": one.target.params, "second": other.target.params},
        "layers_only_first": sorted(set(one.keep.layers) - set(other.keep.layers)),
        "layers_only_second": sorted(set(other.keep.layers) - set(one.keep.layers)),
        "sizes": {
            name: {"first": one.target.sizes[name], "second": other.target.sizes[name]}
            for name in one.source.family.axes
            if one.target.sizes[name] != other.target.sizes[name]
        },
        "cuts": cuts,
        "scales_differ": dict(one.scales) != dict(other.scales),
    }


def as_runs(kept: Iterable[int] | Indices) -> str:
    """Indices in their order, ascending runs written short.

    >>> as_runs([0, 1, 2, 5, 4])
    '0-2,5,4'
    """
    runs: list[list[int]] = []
    for index in (int(index) for index in kept):
        if runs and index == runs[-1][-1] + 1:
            runs[-1][1:] = [index]
        else:
            runs.append([index])
    return ",".join("-".join(str(end) for end in run) for run in runs)


def _index_sets(plan: PrunePlan) -> Iterator[tuple[UnitSet, Indices, int]]:
    """(which set of units, kept indices, size before) of every set that is cut."""
    sets: dict[UnitSet, Indices] = {}
    for (axis, layer), kept in plan.keep.indices.items():
        rows: Iterable[tuple[int | None, Indices]] = [(None, kept)] if kept.ndim == 1 else enumerate(kept)
        sets |= {(axis, layer, entry): row for entry, row in rows}
    yield from ((key, sets[key], plan.source.sizes[key[0]]) for key in sorted(sets, key=_order))


def _order(units: UnitSet) -> tuple[int, str, int]:
    axis, layer, entry = units
    return (-1 if layer is None else layer, axis, -1 if entry is None else entry)
