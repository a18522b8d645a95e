"""From scores to kept units: rankings inside groups, channels shared by heads, blocks under quotas."""

# D hidden, F ffn, H mamba heads, P head dim, G groups, L layers

from collections.abc import Mapping

import numpy as np

from minitron.hybrid.axes import Indices
from minitron.hybrid.shape import HybridShape
from minitron.hybrid.slicing import Keep
from minitron.importance.scores import ScoreArray, Scores


def top_units(score_C: ScoreArray, kept: int) -> Indices:
    """Ascending indices of the `kept` best units.

    >>> top_units(np.array([0.1, 0.9, 0.5]), 2).tolist()
    [1, 2]
    """
    return np.sort(np.argsort(-score_C, kind="stable")[:kept]).astype(np.int64)


def top_mamba_channels(score_HP: ScoreArray, kept: int) -> Indices:
    """Channels kept in every head of a layer: ranked by their L2 over heads (arXiv 2504.11409)."""
    return top_units(np.linalg.norm(score_HP, axis=0), kept)


def top_mamba_heads(score_HP: ScoreArray, channels: Indices, *, n_groups: int, kept: int) -> Indices:
    """Heads kept in a layer: ranked by their L2 over the kept channels, the same number in each group.

    Source: arXiv 2504.11409 (group-aware pruning keeps the scan's head-to-group map).
    """
    score_H = np.linalg.norm(score_HP[:, channels], axis=1)
    heads_in_group = len(score_H) // n_groups
    score_GH = score_H.reshape(n_groups, heads_in_group)
    return np.concatenate(
        [group * heads_in_group + top_units(score_GH[group], kept // n_groups) for group in range(n_groups)]
    )


def top_blocks(depth_L: ScoreArray, pattern: str, kept: int, *, keep_kinds: Mapping[str, int]) -> tuple[int, ...]:
    """Ascending indices of the `kept` best blocks, leaving at least the quota of each kind.

    Args:
        depth_L: One score a block.
        pattern: The blocks' letters.
        kept: How many blocks stay.
        keep_kinds: Letter -> how many blocks of that kind must stay at least, all where there are fewer.

    Raises:
        ValueError: The quotas do not allow so few blocks.
    """
    if not 1 <= kept <= len(pattern):
        raise ValueError(f"num_hidden_layers must be between 1 and {len(pattern)}, got {kept}")
    layers = set(range(len(pattern)))
    for layer in np.argsort(depth_L, kind="stable").tolist():
        if len(layers) == kept:
            break
        kind = pattern[layer]
        if sum(pattern[other] == kind for other in layers) > keep_kinds.get(kind, 0):
            layers.remove(layer)
    if len(layers) != kept:
        raise ValueError(f"at least {len(layers)} of {len(pattern)} blocks must stay under the quotas, got {kept}")
    return tuple(sorted(layers))


def select_units(scores: Scores, source: HybridShape, target: HybridShape, layers: tuple[int, ...]) -> Keep:
    """What survives when a model is cut from the source's shape to the target's by its scores.

    Args:
        scores: Scores of the source.
        source: Shape before.
        target: Shape after.
        layers: Kept blocks, as indices of the source's.

    Raises:
        ValueError: The target exceeds the source, or changes a dim that the scores say nothing about.
    """
    scored = {"hidden_size", "intermediate_size", "mamba_num_heads", "mamba_head_dim"}
    for axis in source.family.axes:
        if target.sizes[axis] > source.sizes[axis]:
            raise ValueError(f"{axis} must not exceed the source's {source.sizes[axis]}, got {target.sizes[axis]}")
    changed = {axis for axis in source.family.axes if source.sizes[axis] != target.sizes[axis]}
    if changed - scored:
        raise ValueError(f"scores cover {', '.join(sorted(scored))}, the target also changes {changed - scored}")
    indices: dict[tuple[str, int | None], Indices] = {}
    if "hidden_size" in changed:
        indices["hidden_size", None] = top_units(scores.hidden_size, target.hidden_size)
    for layer in layers:
        kind = source.hybrid_override_pattern[layer]
        if kind == "-" and "intermediate_size" in changed:
            indices["intermediate_size", layer] = top_units(scores.intermediate_size[layer], target.intermediate_size)
        if kind == "M" and changed & {"mamba_num_heads", "mamba_head_dim"}:
            channels = top_mamba_channels(scores.mamba[layer], target.mamba_head_dim)
            indices["mamba_head_dim", layer] = channels
            indices["mamba_num_heads", layer] = top_mamba_heads(
                scores.mamba[layer], channels, n_groups=source.n_groups, kept=target.mamba_num_heads
            )
    return Keep(layers=layers, indices=indices)
