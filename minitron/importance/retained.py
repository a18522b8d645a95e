"""How much of the importance a cut keeps: what a solver can rank shapes by before anything is pruned."""

# C units of an axis

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from minitron.importance.scores import ScoreArray, Scores
from minitron.importance.selection import MAMBA_AXES, mamba_channels, mamba_heads
from minitron.models.shape import HybridShape


def retained_shares(scores: Scores, source: HybridShape, layers: Sequence[int]) -> Mapping[str, ScoreArray]:
    """Axis -> [size + 1] share of the axis's importance that its best units of that number keep; `layers` -> [1].

    Shares of a per-block axis are the mean over the kept blocks. Grouped units are taken group by group, so only
    multiples of the number of groups mean something. Mamba heads and channels are counted one at a time, although a
    cut of both keeps somewhat more than the product. An axis that groups another one has the shares of whole groups. An
    axis without scores counts as kept whole.
    """
    kept = set(layers)
    shares = {}
    owners = source.family.owners
    for name, axis in source.family.axes.items():
        groups = 1 if axis.grouped_by is None else max(1, source.sizes[axis.grouped_by])
        found = _ranked(scores, owners.get(name, name), kept)
        if name in owners:
            found = [np.maximum(score, 0).reshape(source.sizes[name], -1).sum(axis=1) for score in found]
        shares[name] = _mean((_kept_share(score, groups) for score in found), source.sizes[name])
    # A greedy search marks what it removed by negative scores; such a block counts as the least of the others.
    depth_L = np.where(scores.depth < 0, np.min(scores.depth, where=scores.depth >= 0, initial=np.inf), scores.depth)
    depth_L = np.where(np.isfinite(depth_L), depth_L, 0.0)
    total = float(depth_L.sum())
    shares["layers"] = np.array([float(depth_L[list(layers)].sum()) / total if total else 1.0])
    return shares


def _ranked(scores: Scores, axis: str, kept: set[int]) -> list[ScoreArray]:
    """One array of units' scores for each set of them that is ranked on its own."""
    if axis == "hidden_size":
        return [] if scores.hidden_size is None else [scores.hidden_size]
    if axis in MAMBA_AXES:
        score_of = mamba_heads if axis == "mamba_num_heads" else mamba_channels
        return [score_of(score) for score in _of(scores.mamba, kept)]
    return [row for score in _of(getattr(scores, axis), kept) for row in np.atleast_2d(score)]


def _of(by_layer: Mapping[int, ScoreArray], kept: set[int]) -> list[ScoreArray]:
    return [score for layer, score in by_layer.items() if layer in kept]


def _kept_share(score_C: ScoreArray, groups: int) -> ScoreArray:
    best_first_GC = -np.sort(-np.maximum(score_C, 0).reshape(groups, -1), axis=1)
    cumulative = np.concatenate([[0.0], np.cumsum(best_first_GC.sum(axis=0))])
    share = cumulative / cumulative[-1] if cumulative[-1] else np.ones_like(cumulative)
    # Between two multiples of the groups nothing can be kept; the share of the lower one stands there.
    return np.asarray(np.repeat(share, groups)[: len(score_C) + 1])


def _mean(shares: Iterable[ScoreArray], size: int) -> ScoreArray:
    found = list(shares)
    return np.asarray(np.mean(found, axis=0)) if found else np.ones(size + 1)
