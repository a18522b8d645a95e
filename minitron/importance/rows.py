"""Scores as rows of units, one for each block: as pictures of them show them."""

import numpy as np

from minitron.importance.scores import LAYER_AXES, ScoreArray, Scores
from minitron.importance.selection import mamba_channels, mamba_heads

# Rows of this axis are sorted: neurons of experts, best first, the mean over the experts.
SORTED_AXIS = "moe_intermediate_size"


def score_rows(scores: Scores) -> dict[str, dict[int | None, ScoreArray]]:
    """Axis -> block, or None for the whole model -> the scores of its units."""
    rows: dict[str, dict[int | None, ScoreArray]] = {
        "mamba_num_heads": {layer: mamba_heads(score) for layer, score in scores.mamba.items()},
        "mamba_head_dim": {layer: mamba_channels(score) for layer, score in scores.mamba.items()},
    }
    for axis in (axis for axis in LAYER_AXES if axis != "mamba"):
        rows[axis] = {
            layer: score if score.ndim == 1 else np.mean(-np.sort(-score, axis=1), axis=0)
            for layer, score in getattr(scores, axis).items()
        }
    if scores.hidden_size is not None:
        rows["hidden_size"] = {None: scores.hidden_size}
    return {axis: found for axis, found in rows.items() if found}


def row_label(layer: int | None) -> str:
    """What a row is called."""
    return "all blocks" if layer is None else f"block {layer}"
