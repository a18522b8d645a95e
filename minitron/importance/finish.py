"""Turns the finished scores of axes and blocks into one `Scores` value."""

# L blocks

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from minitron.errors import NotFiniteError
from minitron.importance.block_statistics import Key
from minitron.importance.scores import LAYER_AXES, ScoreArray, Scores, layer_scores


def make_scores(
    found: Mapping[Key, torch.Tensor],
    depth_L: torch.Tensor,
    removed: Sequence[int],
    *,
    num_samples: int,
    num_tokens: int,
) -> Scores:
    """Scores as a value.

    Args:
        found: (axis, layer) -> scores of the units; keys that are no axis are passed over.
        depth_L: A score for each block.
        removed: Blocks in the order of a greedy removal.
        num_samples: Samples that they were calibrated on.
        num_tokens: Tokens of those samples.

    Raises:
        NotFiniteError: A score is not finite.
    """

    def by_layer(axis: str) -> dict[int, ScoreArray]:
        return {layer: found[name, layer].numpy() for name, layer in sorted(found) if name == axis}

    for (axis, layer), score in found.items():
        if not torch.isfinite(score).all():
            raise NotFiniteError(
                f"scores must be finite, those of {axis} in block {layer} are not: the model overflows"
            )
    if not torch.isfinite(depth_L).all():
        raise NotFiniteError("depth scores must be finite, they are not: the model overflows")
    hidden = list(by_layer("hidden_size").values())
    return Scores(
        hidden_size=np.sum(hidden, axis=0) if hidden else None,
        **layer_scores({axis: by_layer(axis) for axis in LAYER_AXES}),
        depth=depth_L.numpy(),
        removed=tuple(removed),
        num_samples=num_samples,
        num_tokens=num_tokens,
    )
