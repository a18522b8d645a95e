from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minitron.importance.scores import load_scores, random_scores, save_scores
from minitron.importance.selection import select_units, top_blocks, top_mamba_channels, top_mamba_heads
from minitron.models.quotas import BlockQuotas
from minitron.models.shape import HybridShape
from tests.support.models import make_tiny_shape


def test_heads_are_kept_evenly_over_groups_even_when_one_group_scores_higher() -> None:
    score_HP = np.array([[9.0], [8], [7], [6], [1], [4], [3], [2]])
    kept = top_mamba_heads(score_HP, np.array([0]), n_groups=2, kept=4)
    assert kept.tolist() == [0, 1, 5, 6]


def test_heads_are_ranked_over_the_kept_channels_alone() -> None:
    score_HP = np.array([[1.0, 9.0], [2.0, 0.0], [1.0, 0.0], [0.5, 0.0]])
    assert top_mamba_heads(score_HP, np.array([0]), n_groups=1, kept=1).tolist() == [1]
    assert top_mamba_heads(score_HP, np.array([0, 1]), n_groups=1, kept=1).tolist() == [0]


def test_the_weakest_blocks_go_first_but_never_below_a_quota() -> None:
    depth_L = np.array([0.9, 0.1, 0.2, 0.8, 0.3])
    assert top_blocks(depth_L, "M*M*-", 3, quotas=BlockQuotas()) == (0, 3, 4)
    assert top_blocks(depth_L, "M*M*-", 3, quotas=BlockQuotas(at_least={"*": 2})) == (0, 1, 3)
    with pytest.raises(ValueError, match="at least 2 of 5 blocks must stay under the quotas, got 1"):
        top_blocks(depth_L, "M*M*-", 1, quotas=BlockQuotas(at_least={"*": 2}))


def test_selected_units_lead_to_the_target(tiny_shape: HybridShape) -> None:
    layers = (0, 1, 2, 4, 7)
    target = tiny_shape.resized(
        layers=layers,
        hidden_size=13,
        intermediate_size=21,
        mamba_num_heads=4,
        mamba_head_dim=3,
        num_attention_heads=3,
    )
    keep = select_units(random_scores(tiny_shape, seed=0), tiny_shape, target, layers)
    assert keep.shape(tiny_shape) == target


def test_attention_heads_are_kept_evenly_over_key_value_heads(tiny_shape: HybridShape) -> None:
    keep = select_units(
        random_scores(tiny_shape, seed=0), tiny_shape, tiny_shape.resized(num_attention_heads=3), tuple(range(8))
    )
    for layer in tiny_shape.layers_of("*"):
        assert (keep.indices["num_attention_heads", layer] // 2).tolist() == [0, 1, 2]


def test_a_dim_without_scores_is_refused(tiny_shape: HybridShape) -> None:
    scores = replace(random_scores(tiny_shape, seed=0), num_attention_heads={})
    with pytest.raises(ValueError, match="the target changes num_attention_heads, of which there are no scores"):
        select_units(scores, tiny_shape, tiny_shape.resized(num_attention_heads=3), tuple(range(8)))


def test_heads_and_channels_of_energy_matrices() -> None:
    rng = np.random.default_rng(0)
    energy_HPP = rng.random((4, 3, 3))
    channels = top_mamba_channels(energy_HPP, 2)
    assert set(channels.tolist()) == set(np.argsort(-sum(np.diag(m) for m in energy_HPP))[:2].tolist())
    sums = [energy_HPP[h][np.ix_(channels, channels)].sum() for h in range(4)]
    expected = [int(np.argmax(sums[:2])), 2 + int(np.argmax(sums[2:]))]
    assert top_mamba_heads(energy_HPP, channels, n_groups=2, kept=2).tolist() == expected


def test_scores_survive_their_file(tmp_path: Path, tiny_shape: HybridShape) -> None:
    scores = random_scores(tiny_shape, seed=4)
    save_scores(scores, tmp_path / "scores.safetensors")
    loaded = load_scores(tmp_path / "scores.safetensors")
    np.testing.assert_array_equal(loaded.hidden_size, scores.hidden_size)
    assert list(loaded.mamba) == list(scores.mamba)
    for layer in scores.mamba:
        np.testing.assert_array_equal(loaded.mamba[layer], scores.mamba[layer])


def test_an_axis_of_which_no_block_is_kept_cannot_be_cut() -> None:
    shape = make_tiny_shape()
    target = shape.resized(layers=[0, 2], intermediate_size=5)
    with pytest.raises(ValueError, match="intermediate_size must stay 36 where no - block is kept, got 5"):
        select_units(random_scores(shape, seed=0), shape, target, (0, 2))
