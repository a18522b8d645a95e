"""Sorting units by importance changes no function, and prefixes of the sorted model are the best units."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minitron.importance.ordering import best_first, carried_scores
from minitron.importance.scores import random_scores
from minitron.importance.selection import removal_order, select_units, top_blocks
from minitron.models.keep import Keep
from minitron.models.nested import prefix_keep
from minitron.models.quotas import BlockQuotas
from minitron.models.shape import HybridShape
from minitron.prune.in_memory import prune_model
from minitron.prune.plan import PrunePlan
from tests.support.exact import ROUNDING, exact_model, logits_of, pruned
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_model, make_tiny_shape
from tests.support.strategies import plans, shapes, tokens


def sorting(shape: HybridShape, seed: int) -> PrunePlan:
    return PrunePlan(source=shape, target=shape, keep=best_first(random_scores(shape, seed=seed), shape))


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_sorted_units_give_the_same_logits(data: Any, seed: int) -> None:
    shape = data.draw(shapes())
    model, ids_BT = exact_model(shape, seed=seed), tokens(shape, seed)
    found = logits_of(pruned(model, sorting(shape, seed)), ids_BT)
    torch.testing.assert_close(found, logits_of(model, ids_BT), **ROUNDING)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (make_tiny_shape(), {"hidden_size": 13, "intermediate_size": 21, "num_attention_heads": 3}),
        (make_tiny_shape(), {"mamba_head_dim": 3}),
        (make_tiny_shape(), {"mamba_num_heads": 4}),
        (make_moe_shape(), {"moe_intermediate_size": 7, "moe_shared_expert_intermediate_size": 5}),
        (make_moe_shape(), {"n_routed_experts": 9}),
        (make_dense_shape("qwen3"), {"num_attention_heads": 4, "num_key_value_heads": 2}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else value.model_type,
)
def test_a_prefix_of_the_sorted_model_has_the_units_that_scores_select(
    shape: HybridShape, sizes: dict[str, int]
) -> None:
    scores, layers = random_scores(shape, seed=3), tuple(range(shape.num_hidden_layers))
    order = best_first(scores, shape)
    target = shape.resized(layers=layers, **sizes)
    selected, first = select_units(scores, shape, target, layers), prefix_keep(shape, target, layers)
    assert selected.indices.keys() >= first.indices.keys()
    for at, kept in selected.indices.items():
        if at not in first.indices:  # heads and channels are chosen together, even where one of them stays whole
            assert len(kept) == shape.sizes[at[0]]
            continue
        ordered, prefix = order.indices[at], first.indices[at]
        found = np.take_along_axis(ordered, prefix, axis=1) if kept.ndim == 2 else ordered[prefix]
        assert np.array_equal(np.sort(found, axis=-1), np.sort(kept, axis=-1)), at


@given(st.data())
def test_scores_are_carried_as_weights_are(data: Any) -> None:
    shape = data.draw(shapes())
    plan = data.draw(plans(shape))
    scores = random_scores(shape, seed=1)
    carried = carried_scores(scores, plan.keep)
    keep = best_first(carried, plan.target)
    PrunePlan(source=plan.target, target=plan.target, keep=keep)
    assert carried.depth.tolist() == [scores.depth[layer] for layer in plan.keep.layers]
    again = Keep(layers=tuple(range(plan.target.num_hidden_layers)), indices={})
    unchanged = carried_scores(carried, again)
    assert np.array_equal(unchanged.depth, carried.depth)
    if carried.hidden_size is not None and ("hidden_size", None) in plan.keep.indices:
        assert scores.hidden_size is not None
        assert np.array_equal(carried.hidden_size, scores.hidden_size[plan.keep.indices["hidden_size", None]])


def test_carried_scores_follow_heads_channels_experts_and_their_neurons() -> None:
    shape = make_moe_shape()
    scores, layers = random_scores(shape, seed=2), (0, 1, 4)
    target = shape.resized(
        layers=layers, mamba_num_heads=4, mamba_head_dim=3, n_routed_experts=12, moe_intermediate_size=6
    )
    keep = select_units(scores, shape, target, layers)
    carried = carried_scores(scores, keep)
    heads, channels = keep.indices["mamba_num_heads", 0], keep.indices["mamba_head_dim", 0]
    assert np.array_equal(carried.mamba[0], scores.mamba[0][np.ix_(heads, channels)])
    experts, neurons = keep.indices["n_routed_experts", 4], keep.indices["moe_intermediate_size", 4]
    for after, before in enumerate(experts):
        expected = scores.moe_intermediate_size[4][before, neurons[before]]
        assert np.array_equal(carried.moe_intermediate_size[2][after], expected)
    assert set(carried.moe_intermediate_size) == {1, 2}


def test_axes_without_scores_stay_as_they_are() -> None:
    shape = make_tiny_shape()
    scores = replace(random_scores(shape, seed=0), intermediate_size={}, mamba={})
    named = {axis for axis, _ in best_first(scores, shape).indices}
    assert named == {"hidden_size", "num_attention_heads", "num_key_value_heads"}


def test_blocks_go_one_by_one_as_scores_remove_them() -> None:
    pattern, quotas = "M-*MM-*-", BlockQuotas(at_least={"*": 1})
    depth_L = np.array([8.0, 1, 2, 3, 4, 5, 2.5, 7])
    removed = removal_order(depth_L, pattern, 3, quotas=quotas)
    assert removed == (1, 2, 3, 4, 5)
    for kept in range(3, 9):
        expected = top_blocks(depth_L, pattern, kept, quotas=quotas)
        assert tuple(sorted(set(range(8)) - set(removed[: 8 - kept]))) == expected


def test_a_prefix_of_the_sorted_model_is_the_model_cut_by_scores_in_another_order() -> None:
    shape = make_tiny_shape()
    scores, layers = random_scores(shape, seed=5), (0, 1, 2, 4, 5)
    target = shape.resized(layers=layers, hidden_size=13, intermediate_size=21)
    model = make_tiny_model(shape)
    plan = PrunePlan(source=shape, target=target, keep=select_units(scores, shape, target, layers))
    ids_BT = tokens(shape, 0)
    sorted_model = prune_model(model, PrunePlan(source=shape, target=shape, keep=best_first(scores, shape)))
    prefix = PrunePlan(source=shape, target=target, keep=prefix_keep(shape, target, layers))
    with torch.no_grad():
        expected = prune_model(model, plan)(ids_BT, use_cache=False).logits
        found = prune_model(sorted_model, prefix)(ids_BT, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
