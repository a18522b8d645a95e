"""Orders of units and blocks by importance, best first: what nested students are prefixes of."""

# D hidden, F ffn, H mamba heads, P head dim, E experts, L layers

from collections.abc import Mapping

import numpy as np

from minitron.importance.scores import LAYER_AXES, ByLayer, ScoreArray, Scores, layer_scores
from minitron.importance.selection import MAMBA_AXES, mamba_channels, mamba_heads
from minitron.models.axes import Axis, Indices
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape


def carried_scores(scores: Scores, keep: Keep) -> Scores:
    """Scores of the units that a cut kept, as scores of the model that is left.

    Args:
        scores: Scores of the model that was cut.
        keep: What survived.
    """
    hidden = keep.indices.get(("hidden_size", None))
    by_axis: dict[str, ByLayer] = {}
    for name in LAYER_AXES:
        found: Mapping[int, ScoreArray] = getattr(scores, name)
        by_axis[name] = {
            position: _carried(found[layer], name, keep.at(layer))
            for position, layer in enumerate(keep.layers)
            if layer in found
        }
    return Scores(
        hidden_size=scores.hidden_size if hidden is None or scores.hidden_size is None else scores.hidden_size[hidden],
        **layer_scores(by_axis),
        depth=scores.depth[list(keep.layers)],
        num_samples=scores.num_samples,
        num_tokens=scores.num_tokens,
        origin=scores.origin,
    )


def _carried(score: ScoreArray, name: str, inside: Mapping[str, Indices]) -> ScoreArray:
    if name == "mamba":
        heads, channels = (inside.get(axis) for axis in MAMBA_AXES)
        score = score if heads is None else score[heads]
        for dim in range(1, score.ndim):
            score = score if channels is None else score.take(channels, axis=dim)
        return score
    kept = inside.get(name)
    if name != "moe_intermediate_size":
        return score if kept is None else score[kept]
    if kept is not None:
        score = np.take_along_axis(score, kept, axis=1)
    experts = inside.get("n_routed_experts")
    return score if experts is None else score[experts]


def best_first(scores: Scores, shape: HybridShape) -> Keep:
    """Every unit of every scored axis, the most important first, group by group; axes without scores stay.

    A whole group counts as the sum of its units. Mamba channels are ranked over all heads, heads over all channels.
    """
    family = shape.family
    layers = tuple(range(shape.num_hidden_layers))
    indices: dict[tuple[str, int | None], Indices] = {}
    for name, axis in family.axes.items():
        if name in family.owners:
            continue  # groups that are an axis go with their units
        for layer in shape.places_of(axis, layers):
            score = _score_at(scores, name, layer)
            if score is not None:
                indices |= _ordered(score, axis, layer, shape)
    return Keep(layers=layers, indices=indices)


def _score_at(scores: Scores, name: str, layer: int | None) -> ScoreArray | None:
    if layer is None:
        return scores.hidden_size
    if name not in MAMBA_AXES:
        by_layer: ByLayer = getattr(scores, name)
        return by_layer.get(layer)
    score = scores.mamba.get(layer)
    if score is None:
        return None
    return mamba_heads(score) if name == "mamba_num_heads" else mamba_channels(score)


def _ordered(
    score: ScoreArray, axis: Axis, layer: int | None, shape: HybridShape
) -> dict[tuple[str, int | None], Indices]:
    """The order of an axis's units, and of the axis that groups it where there is one."""
    if axis.per is not None or axis.grouped_by is None:
        return {(axis.name, layer): _descending(score)}
    score_GU = score.reshape(shape.sizes[axis.grouped_by], -1)
    groups = np.arange(len(score_GU), dtype=np.int64)
    found: dict[tuple[str, int | None], Indices] = {}
    if axis.grouped_by in shape.family.axes:
        groups = _descending(score_GU.sum(axis=1))
        found[axis.grouped_by, layer] = groups
    units_GU = groups[:, None] * score_GU.shape[1] + _descending(score_GU[groups])
    return {**found, (axis.name, layer): units_GU.reshape(-1)}


def _descending(score: ScoreArray) -> Indices:
    return np.argsort(-score, axis=-1, kind="stable").astype(np.int64)
