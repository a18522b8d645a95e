"""From scores to kept units: rankings inside groups, channels shared by heads, blocks under quotas."""

# D hidden, F ffn, H mamba heads, P head dim, G groups, L layers

from collections.abc import Iterable

import numpy as np

from minitron.errors import MinitronError
from minitron.importance.scores import ScoreArray, Scores
from minitron.models.axes import Axis, Indices
from minitron.models.keep import Keep
from minitron.models.quotas import BlockQuotas
from minitron.models.shape import HybridShape

MAMBA_AXES = ("mamba_num_heads", "mamba_head_dim")


def top_units(score_C: ScoreArray, kept: int) -> Indices:
    """Ascending indices of the `kept` best units.

    >>> top_units(np.array([0.1, 0.9, 0.5]), 2).tolist()
    [1, 2]
    """
    return np.sort(np.argsort(-score_C, kind="stable")[:kept]).astype(np.int64)


def mamba_channels(score: ScoreArray) -> ScoreArray:
    """[P] score of each channel over all heads: the L2 of [H, P], or the summed diagonals of [H, P, P]."""
    if score.ndim == 3:
        return np.asarray(np.einsum("hpp->p", score))
    return np.asarray(np.linalg.norm(score, axis=0))


def mamba_heads(score: ScoreArray, channels: Indices | None = None) -> ScoreArray:
    """[H] score of each head over some channels (all when None): the L2 of [H, P], or the sum over [H, P, P]."""
    kept = np.arange(score.shape[1]) if channels is None else channels
    if score.ndim == 3:
        return np.asarray(score[:, kept][:, :, kept].sum(axis=(1, 2)))
    return np.asarray(np.linalg.norm(score[:, kept], axis=1))


def top_mamba_channels(score: ScoreArray, kept: int) -> Indices:
    """Channels kept in every head of a layer, one ranking for all heads (arXiv 2504.11409).

    Args:
        score: [H, P] or [H, P, P].
        kept: How many.
    """
    return top_units(mamba_channels(score), kept)


def top_mamba_heads(score: ScoreArray, channels: Indices, *, n_groups: int, kept: int) -> Indices:
    """Heads kept in a layer, ranked over the kept channels, the same number in each group.

    Source: arXiv 2504.11409 (group-aware pruning keeps the scan's head-to-group map).

    Args:
        score: [H, P] or [H, P, P].
        channels: The channels that are kept.
        n_groups: Groups of B and C, each of which serves a contiguous run of heads.
        kept: How many.
    """
    return top_in_groups(mamba_heads(score, channels), n_groups=n_groups, kept=kept)


def top_in_groups(score_C: ScoreArray, *, n_groups: int, kept: int) -> Indices:
    """Units kept when each of the contiguous groups keeps the same number of its best.

    >>> top_in_groups(np.array([9.0, 8.0, 1.0, 2.0]), n_groups=2, kept=2).tolist()
    [0, 3]
    """
    return _top_of_groups(score_C.reshape(n_groups, -1), range(n_groups), kept // n_groups)


def top_blocks(depth_L: ScoreArray, pattern: str, kept: int, *, quotas: BlockQuotas) -> tuple[int, ...]:
    """Ascending indices of the `kept` best blocks under quotas.

    Args:
        depth_L: One score a block.
        pattern: The blocks' letters.
        kept: How many blocks stay.
        quotas: Which blocks, and how many of a kind, must stay.

    Raises:
        MinitronError: The quotas do not allow so few blocks.
    """
    if not 1 <= kept <= len(pattern):
        raise MinitronError(f"num_hidden_layers must be between 1 and {len(pattern)}, got {kept}")
    removed = removal_order(depth_L, pattern, kept, quotas=quotas)
    return tuple(layer for layer in range(len(pattern)) if layer not in removed)


def removal_order(depth_L: ScoreArray, pattern: str, fewest: int, *, quotas: BlockQuotas) -> tuple[int, ...]:
    """Blocks in the order in which they go, the least important first, until the fewest are left.

    Args:
        depth_L: One score a block.
        pattern: The blocks' letters.
        fewest: How many blocks stay in the end.
        quotas: Which blocks, and how many of a kind, must stay.

    Raises:
        ShapeError: The quotas do not allow so few blocks.
    """
    layers, removed = list(range(len(pattern))), []
    while len(layers) > fewest:
        worst = min(quotas.removable(pattern, layers, fewest), key=lambda layer: float(depth_L[layer]))
        layers.remove(worst)
        removed.append(worst)
    return tuple(removed)


def select_units(scores: Scores, source: HybridShape, target: HybridShape, layers: tuple[int, ...]) -> Keep:
    """What survives when a model is cut from the source's shape to the target's by its scores.

    Args:
        scores: Scores of the source.
        source: Shape before.
        target: Shape after.
        layers: Kept blocks, as indices of the source's.

    Raises:
        MinitronError: The target exceeds the source, or changes a dim that the scores say nothing about.
    """
    for name in source.family.axes:
        if target.sizes[name] > source.sizes[name]:
            raise MinitronError(f"{name} must not exceed the source's {source.sizes[name]}, got {target.sizes[name]}")
    # Axes of blocks that are all gone have nothing left to choose from.
    kinds = {source.hybrid_override_pattern[layer] for layer in layers}
    changed = {
        name
        for name, axis in source.family.axes.items()
        if source.sizes[name] != target.sizes[name] and (axis.blocks is None or kinds & set(axis.blocks))
    }
    for name, axis in source.family.axes.items():
        if name not in changed and source.sizes[name] != target.sizes[name]:
            raise MinitronError(
                f"{name} must stay {source.sizes[name]} where no {axis.blocks} block is kept, got {target.sizes[name]}"
            )
    indices: dict[tuple[str, int | None], Indices] = {}
    owners = source.family.owners
    for name in sorted(changed - set(MAMBA_AXES) - owners.keys()):
        axis = source.family.axes[name]
        for layer in source.places_of(axis, layers):
            score = _scored(scores.hidden_size if layer is None else getattr(scores, name).get(layer), name)
            if axis.grouped_by in changed:
                indices |= _top_with_groups(score, source, target, axis, layer)
            else:
                sizes = target.sizes if layer is None else target.sizes_at(layers.index(layer))
                indices[name, layer] = _top(score, source, axis, sizes[name])
    if changed & set(MAMBA_AXES):
        for layer in source.places_of(source.family.axes["mamba_num_heads"], layers):
            assert layer is not None
            score = _scored(scores.mamba.get(layer), "mamba_num_heads")
            channels = top_mamba_channels(score, target.mamba_head_dim)
            indices["mamba_head_dim", layer] = channels
            indices["mamba_num_heads", layer] = top_mamba_heads(
                score, channels, n_groups=source.n_groups, kept=target.mamba_num_heads
            )
    return Keep(layers=layers, indices=indices)


def top_groups(score_C: ScoreArray, *, n_groups: int, kept_groups: int, kept: int) -> tuple[Indices, Indices]:
    """Groups kept, and units kept in them, when groups are ranked by the sum of the best units that each would keep.

    >>> [kept.tolist() for kept in top_groups(np.array([9, 0, 5.0, 5]), n_groups=2, kept_groups=1, kept=2)]
    [[1], [2, 3]]
    """
    score_GC = score_C.reshape(n_groups, -1)
    per_group = kept // kept_groups
    groups = top_units(-np.sort(-score_GC, axis=1)[:, :per_group].sum(axis=1), kept_groups)
    return groups, _top_of_groups(score_GC, groups.tolist(), per_group)


def _top_of_groups(score_GC: ScoreArray, groups: Iterable[int], per_group: int) -> Indices:
    """Units kept when some of the groups keep so many of their best, group by group."""
    size = score_GC.shape[1]
    return np.concatenate([group * size + top_units(score_GC[group], per_group) for group in groups])


def _top_with_groups(
    score: ScoreArray, source: HybridShape, target: HybridShape, axis: Axis, layer: int | None
) -> dict[tuple[str, int | None], Indices]:
    """Kept units of an axis and of the axis that groups it, which loses groups, too."""
    groups = axis.grouped_by or ""
    most = source.sizes[axis.name] // source.sizes[groups] * target.sizes[groups]
    if target.sizes[axis.name] > most:
        raise MinitronError(
            f"{axis.name} must be at most {most} with {groups}={target.sizes[groups]}, got {target.sizes[axis.name]}"
        )
    kept_groups, units = top_groups(
        score, n_groups=source.sizes[groups], kept_groups=target.sizes[groups], kept=target.sizes[axis.name]
    )
    return {(groups, layer): kept_groups, (axis.name, layer): units}


def _scored(score: ScoreArray | None, axis: str) -> ScoreArray:
    if score is None:
        raise MinitronError(f"the target changes {axis}, of which there are no scores")
    return score


def _top(score: ScoreArray, source: HybridShape, axis: Axis, kept: int) -> Indices:
    if axis.per is not None:
        return np.stack([top_units(score_C, kept) for score_C in score])
    groups = 1 if axis.grouped_by is None else source.sizes[axis.grouped_by]
    return top_in_groups(score, n_groups=groups, kept=kept)
