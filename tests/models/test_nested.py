"""Nested students are prefixes: of any two, the smaller one's units are among the larger one's, and come first."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitron.errors import ShapeError
from minitron.models.axes import tensor_shape
from minitron.models.keep import compose_keeps
from minitron.models.nested import NestedStudents, prefix_keep
from minitron.models.slicing import slice_tensors
from minitron.prune.plan import PrunePlan
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_shape
from tests.support.strategies import plans, shapes


@given(st.data())
def test_any_shape_that_a_cut_can_have_is_a_prefix(data: Any) -> None:
    shape = data.draw(shapes())
    plan = data.draw(plans(shape))
    keep = prefix_keep(shape, plan.target, plan.keep.layers)
    PrunePlan(source=shape, target=plan.target, keep=keep)  # checks groups and counts
    for (axis, layer), kept in keep.indices.items():
        groups = shape.family.axes[axis].grouped_by
        for row in np.atleast_2d(kept):
            run = 1 if groups is None else shape.sizes[axis] // shape.sizes[groups]
            if groups is None:
                assert row.tolist() == list(range(len(row))), (axis, layer)
            else:
                assert set((row % run).tolist()) == set(range(len(row) // plan.target.sizes[groups])), (axis, layer)
                assert set((row // run).tolist()) == set(range(plan.target.sizes[groups])), (axis, layer)


def test_what_exceeds_the_largest_student_is_refused() -> None:
    shape = make_tiny_shape()
    larger, layers = make_tiny_shape(hidden_size=23), tuple(range(8))
    with pytest.raises(ShapeError, match="hidden_size must not exceed the largest student's 22, got 23"):
        prefix_keep(shape, larger, layers)
    dense = make_dense_shape("qwen3")
    fewer_groups = dense.resized(layers=None, num_key_value_heads=1, num_attention_heads=3)
    with pytest.raises(ShapeError, match="num_attention_heads must be at most 2 with num_key_value_heads=1, got 3"):
        prefix_keep(dense, fewer_groups, (0, 1, 2))


def test_blocks_go_in_one_order() -> None:
    shape, students = make_tiny_shape(), NestedStudents(students=(), removed=(3, 0, 7))
    found = [students.layers(shape, depth) for depth in (None, 8, 7, 6, 5)]
    assert found[0] == found[1] == tuple(range(8))
    assert all(set(after) < set(before) for before, after in pairwise(found[1:]))
    assert found[-1] == (1, 2, 4, 5, 6)
    for depth in (4, 9):
        with pytest.raises(ShapeError, match=f"num_hidden_layers must be 5 to 8, got {depth}"):
            students.layers(shape, depth)


def test_whole_groups_go_with_their_units() -> None:
    dense = make_dense_shape("qwen3")
    student = NestedStudents(students=()).of_size(dense, {"num_key_value_heads": 2}, None, name="a")
    assert (student.shape.num_key_value_heads, student.shape.num_attention_heads) == (2, 4)
    assert student.keep(dense).indices["num_attention_heads", 1].tolist() == [0, 1, 2, 3]
    moe = make_moe_shape()
    few = NestedStudents(students=()).of_size(moe, {"n_routed_experts": 9}, None, name="a")
    assert few.keep(moe).indices["n_routed_experts", 1].tolist() == [0, 1, 2, 5, 6, 7, 10, 11, 12]


@given(data=st.data(), seed=st.integers(0, 2**16))
def test_two_cuts_are_one(data: Any, seed: int) -> None:
    shape = data.draw(shapes())
    first = data.draw(plans(shape))
    second = data.draw(plans(first.target))
    both = compose_keeps(shape, first.keep, second.keep)
    PrunePlan(source=shape, target=both.shape(shape), keep=both)
    rng = np.random.default_rng(seed)
    tensors = {
        name: torch.from_numpy(rng.random(tensor_shape(spec, shape.sizes))) for name, spec in shape.tensors().items()
    }
    left = dict(slice_tensors(tensors.__getitem__, shape, first.keep))
    expected = dict(slice_tensors(left.__getitem__, first.target, second.keep))
    found = dict(slice_tensors(tensors.__getitem__, shape, both))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-12, atol=0, msg=name)
