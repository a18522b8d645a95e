"""KV heads as an axis of the search: a plain loop, what they save, and how much importance goes with them."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitron.errors import BudgetError
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.importance.retained import retained_shares
from minitron.importance.scores import random_scores
from minitron.importance.selection import select_units
from minitron.models.shape import HybridShape
from minitron.prune.laws.tiny_shape import tiny_shape
from minitron.recipe.search import SearchSection
from minitron.recipe.space import search_space
from minitron.search.limits import Limits
from minitron.search.solver import retained_share, solve_budget
from minitron.search.space import SearchSpace
from minitron.units import GIB
from tests.support.models import make_tiny_shape
from tests.support.published import NANO_9B

# (number of key and value heads) and what each owns, of attention and of gated DeltaNet.
GROUPED = {"num_key_value_heads": "num_attention_heads", "linear_num_key_heads": "linear_num_value_heads"}
KINDS = [
    ("nemotron_h", "M*-*M"),
    ("qwen3", "TTT"),
    ("gemma3_text", "STSS"),
    ("granitemoehybrid", "HTH"),
    ("qwen3_moe", "XTX"),
    ("qwen3_5_text", "GGTG"),
]


def can_be(shape: HybridShape, source: HybridShape) -> bool:
    """Whether every group that stays keeps as many of its heads, and no more than it had."""
    for groups, heads in GROUPED.items():
        if source.sizes.get(groups):
            each, before = shape.sizes[heads] / shape.sizes[groups], source.sizes[heads] // source.sizes[groups]
            if each != int(each) or each > before:
                return False
    return True


def every_shape(space: SearchSpace) -> list[HybridShape]:
    found = []
    for layers in space.layers:
        for sizes in itertools.product(*space.sizes.values()):
            try:
                shape = space.source.resized(layers=layers, **dict(zip(space.sizes, sizes, strict=True)))
            except ValueError:
                continue
            if can_be(shape, space.source):
                found.append(shape)
    return found


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 5),
    accounting=st.sampled_from(["plain", "vllm"]),
    context=st.integers(1, 300),
)
def test_bytes_and_order_equal_a_plain_loop(
    data: Any, kind: tuple[str, str], seed: int, accounting: str, context: int
) -> None:
    source = tiny_shape(*kind, seed=seed)
    sizes = {"hidden_size": (source.hidden_size,)}
    for groups, heads in GROUPED.items():
        if source.sizes.get(groups):
            for axis in (groups, heads):
                options = st.lists(st.integers(1, source.sizes[axis]), min_size=1, max_size=4, unique=True)
                sizes[axis] = (*dict.fromkeys([source.sizes[axis], *data.draw(options)]),)
    layers = (tuple(range(source.num_hidden_layers)), tuple(range(1, source.num_hidden_layers)))
    space = SearchSpace(source=source, layers=layers, sizes=sizes)
    workload = Workload(context_tokens=context, accounting=accounting, workspace_gib=0)
    shapes = every_shape(space)
    totals = sorted((memory_bytes(each, workload).total_bytes for each in shapes), reverse=True)
    budget = data.draw(st.sampled_from(totals))
    result = solve_budget(space, workload, Limits(budget_bytes=budget), top_k=6)
    feasible = [total for total in totals if total <= budget]
    assert result.num_feasible == len(feasible)
    assert [found.memory.total_bytes for found in result.candidates] == feasible[:6]
    for found in result.candidates:
        assert found.memory == memory_bytes(found.shape, workload)
        assert can_be(found.shape, source)


def test_half_the_kv_heads_halve_the_cache_of_a_long_context() -> None:
    workload = Workload(context_tokens=131072)
    section = SearchSection.model_validate({"num_key_value_heads": [8, 4]})
    space = search_space(section, NANO_9B, lambda _: tuple(range(NANO_9B.num_hidden_layers)))
    found = solve_budget(space, workload, Limits(budget_bytes=100 * GIB), top_k=9).candidates
    whole, *_, half = [each for each in found if each.shape.num_attention_heads == 5 * each.shape.num_key_value_heads]
    assert (whole.memory.kv_bytes, half.memory.kv_bytes) == (2 * GIB, GIB)
    assert (half.shape.num_key_value_heads, half.shape.num_attention_heads) == (4, 20)
    paged = workload.changed(accounting="vllm")
    ratio = memory_bytes(whole.shape, paged).kv_bytes / memory_bytes(half.shape, paged).kv_bytes
    assert ratio == pytest.approx(2, rel=0.03)  # but for the states, which share the blocks


def test_heads_that_are_not_named_go_with_their_kv_heads() -> None:
    source = make_tiny_shape()  # 6 heads of 3 KV heads
    space = SearchSpace(source=source, layers=(tuple(range(8)),), sizes={"num_key_value_heads": (3, 2, 1)})
    result = solve_budget(space, Workload(context_tokens=9), Limits(budget_bytes=10**9), top_k=99)
    found = {(each.shape.num_key_value_heads, each.shape.num_attention_heads) for each in result.candidates}
    assert {(3, 6), (2, 4), (1, 2)} <= found
    assert all(heads <= 2 * groups for groups, heads in found)


def test_heads_that_no_group_has_are_no_shape() -> None:
    space = SearchSpace(
        source=make_tiny_shape(),
        layers=(tuple(range(8)),),
        sizes={"num_key_value_heads": (2,), "num_attention_heads": (3, 6)},
    )
    with pytest.raises(BudgetError, match="num_attention_heads a multiple of num_key_value_heads, with at most"):
        solve_budget(space, Workload(context_tokens=9), Limits(budget_bytes=10**9), top_k=1)


@pytest.mark.parametrize(("groups", "heads"), [(3, 6), (2, 4), (1, 2), (3, 3)])
def test_the_share_that_is_kept_is_what_the_kept_heads_score(groups: int, heads: int) -> None:
    source, layers = make_tiny_shape(), tuple(range(8))
    scores = random_scores(source, seed=4)
    target = source.resized(num_key_value_heads=groups, num_attention_heads=heads)
    keep = select_units(scores, source, target, layers)
    kept = []
    for layer, score in scores.num_attention_heads.items():
        units = keep.indices.get(("num_attention_heads", layer), np.arange(6))
        assert len(units) == heads
        kept.append(score[units].sum() / score.sum())
    share = retained_share(retained_shares(scores, source, layers), target.sizes, source)
    assert float(share) == pytest.approx(np.mean(kept))
