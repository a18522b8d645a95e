"""Shares of importance against really selecting the units and adding up what they score."""

from dataclasses import replace

import numpy as np
import pytest

from minitron.importance.retained import retained_shares
from minitron.importance.scores import random_scores
from minitron.importance.selection import mamba_channels, mamba_heads, select_units
from minitron.models.shape import HybridShape

LAYERS = (0, 1, 2, 4, 6, 7)


@pytest.mark.parametrize(
    ("axis", "size"),
    [
        ("hidden_size", 9),
        ("intermediate_size", 17),
        ("mamba_num_heads", 4),
        ("mamba_head_dim", 2),
        ("num_attention_heads", 3),
    ],
)
def test_a_share_is_what_the_selected_units_score(tiny_shape: HybridShape, axis: str, size: int) -> None:
    scores = random_scores(tiny_shape, seed=3)
    target = tiny_shape.resized(layers=LAYERS, **{axis: size})
    keep = select_units(scores, tiny_shape, target, LAYERS)
    of = {
        "hidden_size": lambda layer: scores.hidden_size,
        "intermediate_size": lambda layer: scores.intermediate_size[layer],
        "mamba_num_heads": lambda layer: mamba_heads(scores.mamba[layer]),
        "mamba_head_dim": lambda layer: mamba_channels(scores.mamba[layer]),
        "num_attention_heads": lambda layer: scores.num_attention_heads[layer],
    }[axis]
    kept = [of(layer)[units].sum() / of(layer).sum() for (name, layer), units in keep.indices.items() if name == axis]
    if axis == "mamba_num_heads":  # selected over the kept channels, here all of them
        assert len(kept) == 2
    assert retained_shares(scores, tiny_shape, LAYERS)[axis][size] == pytest.approx(np.mean(kept))


def test_all_of_it_is_one_and_the_blocks_share_is_of_the_blocks(tiny_shape: HybridShape) -> None:
    scores = random_scores(tiny_shape, seed=3)
    shares = retained_shares(scores, tiny_shape, LAYERS)
    for axis, share in shares.items():
        if axis != "layers":
            assert share[-1] == pytest.approx(1)
            assert (np.diff(share) >= 0).all()
            assert len(share) == tiny_shape.sizes[axis] + 1
    assert shares["layers"][0] == pytest.approx(scores.depth[list(LAYERS)].sum() / scores.depth.sum())


def test_a_block_that_a_greedy_search_removed_counts_as_the_least_of_the_others(tiny_shape: HybridShape) -> None:
    depth = np.array([4.0, 3.0, -2.0, 2.0, 5.0, -1.0, 6.0, 7.0])
    scores = replace(random_scores(tiny_shape, seed=3), depth=depth, removed=(2, 5))
    whole = 4 + 3 + 2 + 2 + 5 + 2 + 6 + 7
    kept = [layer for layer in range(8) if layer not in (2, 5)]
    assert retained_shares(scores, tiny_shape, kept)["layers"][0] == pytest.approx((whole - 4) / whole)
    assert retained_shares(scores, tiny_shape, range(8))["layers"][0] == pytest.approx(1)
