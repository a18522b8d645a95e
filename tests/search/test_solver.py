"""The solver against a plain loop over every shape, and what it says when nothing is within the limits."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitron.estimate.devices import find_device
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.throughput import predict_tokens_per_second
from minitron.estimate.serving.workload import Lengths, Workload
from minitron.models.shape import HybridShape
from minitron.search import space as space_module
from minitron.search.limits import Limits
from minitron.search.solver import RANKINGS, NothingFitsError, SearchResult, solve_budget
from minitron.search.space import SearchSpace, size_range
from minitron.units import GIB
from tests.support.models import make_tiny_shape
from tests.support.published import NANO_9B, NANO_12B

WORKLOAD = Workload(context_tokens=64)
SIZES = {"intermediate_size": (36, 24, 12), "mamba_num_heads": (8, 6, 4)}
LAYERS = (tuple(range(8)), tuple(range(6)))
DEVICE = find_device("a10g")


def space_of(shape: HybridShape, **changes: Any) -> SearchSpace:
    return SearchSpace(**{"source": shape, "layers": LAYERS, "sizes": SIZES} | changes)


def solve(shape: HybridShape, budget_bytes: int, top_k: int = 99) -> SearchResult:
    return solve_budget(space_of(shape), WORKLOAD, Limits(budget_bytes=budget_bytes), top_k=top_k)


def every_shape(space: SearchSpace) -> list[HybridShape]:
    axes = list(space.sizes)
    return [
        space.source.resized(layers=layers, **dict(zip(axes, sizes, strict=True)))
        for layers in space.layers
        for sizes in itertools.product(*space.sizes.values())
    ]


@settings(max_examples=40)
@given(data=st.data(), accounting=st.sampled_from(["plain", "vllm"]), grid_shapes=st.sampled_from([1, 7, 2**17]))
def test_count_bytes_and_order_equal_a_plain_loop(data: Any, accounting: str, grid_shapes: int) -> None:
    shape = make_tiny_shape()

    def some(options: range) -> tuple[int, ...]:
        return tuple(data.draw(st.lists(st.sampled_from(options), min_size=1, max_size=4, unique=True)))

    layers = data.draw(
        st.lists(st.sampled_from([(0, 1, 2), (0, 1, 2, 3, 4, 5), tuple(range(8)), (0, 2, 6)]), min_size=1, unique=True)
    )
    sizes = {
        "hidden_size": some(range(5, 23)),
        "intermediate_size": some(range(7, 37)),
        "mamba_num_heads": some(range(2, 9, 2)),
        "mamba_head_dim": some(range(1, 6)),
        "num_attention_heads": some(range(3, 7, 3)),
    }
    space = SearchSpace(source=shape, layers=tuple(layers), sizes=sizes)
    workload = Workload(context_tokens=50, sequences=2, accounting=accounting, workspace_gib=100 / GIB)
    shapes = every_shape(space)
    totals = [memory_bytes(each, workload).total_bytes for each in shapes]
    limits = Limits(
        budget_bytes=data.draw(st.sampled_from(sorted(totals))),
        max_params=data.draw(st.sampled_from([None, max(each.params for each in shapes)])),
    )
    feasible = [total for total in totals if total <= limits.budget_bytes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space_module, "GRID_SHAPES", grid_shapes)
        result = solve_budget(space, workload, limits, top_k=5)
    assert result.num_shapes == space.num_shapes == len(shapes)
    assert result.num_feasible == len(feasible)
    assert [found.memory.total_bytes for found in result.candidates] == sorted(feasible, reverse=True)[:5]
    for found in result.candidates:
        assert found.memory == memory_bytes(found.shape, workload)
        assert found.shape == shape.resized(
            layers=found.layers, **{axis: found.shape.sizes[axis] for axis in shape.family.axes}
        )


def test_only_the_top_k_are_kept(tiny_shape: HybridShape) -> None:
    result = solve(tiny_shape, 10**9, top_k=2)
    assert len(result.candidates) == 2
    assert result.candidates[0].shape == tiny_shape


def test_the_published_three_are_the_top_of_the_published_grid() -> None:
    pattern_9b = NANO_9B.hybrid_override_pattern
    space = SearchSpace(
        source=replace(NANO_12B, hybrid_override_pattern=pattern_9b),
        layers=(tuple(range(56)),),
        sizes={"hidden_size": (4480, 4800, 5120), "mamba_num_heads": (112, 120, 128)},
        intermediate_ratios=(3, 3.5, 4),
    )
    assert space.num_shapes == 27
    limits = Limits(budget_bytes=int(DEVICE.visible_bytes * 0.95 - 1.3 * GIB))
    workload = Workload(context_tokens=131072, workspace_gib=0.65)
    result = solve_budget(space, workload, limits, top_k=3)
    three = {(4480, 17920, 112), (4480, 15680, 128), (4800, 14400, 120)}
    assert dims(result) == three
    # By the plain formula four larger points pass, too: the published rule needs the workspace, or a cap of parameters.
    bare = workload.changed(workspace_gib=None)
    plain = solve_budget(space, bare, limits, top_k=7)
    assert len(dims(plain) - three) == 4
    capped = solve_budget(space, bare, replace(limits, max_params=9_000_000_000), top_k=3)
    assert dims(capped) == three


def dims(result: SearchResult) -> set[tuple[int, int, int]]:
    shapes = [candidate.shape for candidate in result.candidates]
    return {(shape.hidden_size, shape.intermediate_size, shape.mamba_num_heads) for shape in shapes}


@pytest.mark.parametrize("rank_by", RANKINGS)
def test_every_ranking_puts_its_best_first(tiny_shape: HybridShape, rank_by: str) -> None:
    rng = np.random.default_rng(0)
    shares = {axis: rng.permutation(np.linspace(0.1, 1, size + 1)) for axis, size in tiny_shape.sizes.items()}
    shares["layers"] = np.array([0.7])
    limits = Limits(budget_bytes=10**9, device=DEVICE, lengths=Lengths(input_tokens=5, output_tokens=7))
    space = space_of(tiny_shape)
    result = solve_budget(
        space,
        WORKLOAD,
        limits,
        top_k=4,
        rank_by=rank_by,
        shares=lambda layers: {
            axis: share for axis, share in shares.items() if axis in ("layers", *tiny_shape.family.axes)
        },
    )
    value = {
        "memory": lambda shape: memory_bytes(shape, WORKLOAD).total_bytes,
        "throughput": lambda shape: predict_tokens_per_second(shape, WORKLOAD, DEVICE, limits.lengths, 10**9),
        "importance": lambda shape: 0.7 * np.prod([shares[axis][shape.sizes[axis]] for axis in shape.family.axes]),
    }[rank_by]
    best = sorted((float(value(shape)) for shape in every_shape(space)), reverse=True)[:4]
    assert [float(value(found.shape)) for found in result.candidates] == pytest.approx(best, rel=1e-12)
    assert result.candidates[0].tokens_per_s == pytest.approx(
        predict_tokens_per_second(result.candidates[0].shape, WORKLOAD, DEVICE, limits.lengths, 10**9)
    )


def test_a_least_throughput_leaves_out_what_is_slower(tiny_shape: HybridShape) -> None:
    lengths = Lengths(input_tokens=5, output_tokens=7)
    speeds = [
        predict_tokens_per_second(shape, WORKLOAD, DEVICE, lengths, 10**9)
        for shape in every_shape(space_of(tiny_shape))
    ]
    least = sorted(speeds)[7]
    limits = Limits(budget_bytes=10**9, device=DEVICE, lengths=lengths, min_tokens_per_s=least)
    result = solve_budget(space_of(tiny_shape), WORKLOAD, limits, top_k=99)
    assert result.num_feasible == sum(speed >= least for speed in speeds) < len(speeds)


def test_an_impossible_budget_names_the_smallest_shape_and_what_it_lacks(tiny_shape: HybridShape) -> None:
    smallest = tiny_shape.resized(layers=LAYERS[1], intermediate_size=12, mamba_num_heads=4)
    needed = memory_bytes(smallest, WORKLOAD).total_bytes
    with pytest.raises(NothingFitsError, match=f"needs {needed:,}, {needed - 1000:,} more") as caught:
        solve(tiny_shape, 1000)
    assert "what binds is memory; the nearest (6 blocks," in str(caught.value)
    assert "\n" not in str(caught.value)
    assert solve(tiny_shape, needed).num_feasible == 1


def test_limits_that_exclude_each_other_are_named_with_what_meets_each(tiny_shape: HybridShape) -> None:
    lengths = Lengths(input_tokens=5, output_tokens=7)
    shapes = every_shape(space_of(tiny_shape))
    small = sorted(shape.params for shape in shapes)[1]
    limits = Limits(budget_bytes=10**9, max_params=small, device=DEVICE, lengths=lengths, min_tokens_per_s=10**12)
    with pytest.raises(NothingFitsError) as caught:
        solve_budget(space_of(tiny_shape), WORKLOAD, limits, top_k=1)
    assert "what binds is throughput; alone, memory is met by 18, params is met by 2, throughput is met by 0" in str(
        caught.value
    )
    assert "tokens/s" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sizes": {"intermediate_size": (48,)}},
            "intermediate_size must hold sizes up to the teacher's 36, got",
        ),
        (
            {"sizes": {"mamba_num_heads": (8, 5)}},
            r"mamba_num_heads must hold multiples of n_groups=2, got \[5\]",
        ),
        ({"sizes": {"hidden_size": ()}}, "search.hidden_size must hold sizes up to the teacher's 22"),
        ({"intermediate_ratios": (1.5,)}, "exclude each other"),
        ({"sizes": {"hidden_size": (21,)}, "intermediate_ratios": (1.5,)}, r"1.5 x 21 is 31.5"),
        ({"sizes": {}, "intermediate_ratios": (4.0,)}, r"up to the teacher's 36, 4.0 x 22 is 88"),
    ],
)
def test_a_space_that_the_teacher_does_not_hold_is_refused(
    tiny_shape: HybridShape, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        space_of(tiny_shape, **changes)


def test_ranges_run_down_in_steps_that_kernels_like() -> None:
    assert size_range(NANO_12B, "hidden_size", low=4800) == (5120, 5056, 4992, 4928, 4864, 4800)
    assert size_range(NANO_12B, "mamba_num_heads", low=112) == (128, 120, 112)
    assert size_range(NANO_12B, "num_attention_heads", low=16, high=32) == (32, 24, 16)
    assert size_range(NANO_12B, "intermediate_size", low=20000, step=200) == (20480, 20400, 20200, 20000)
    with pytest.raises(ValueError, match="must hold a multiple of 64 between 100 and 120, there is none"):
        size_range(NANO_12B, "hidden_size", low=100, high=120)


def test_where_not_one_sequence_fits_the_nearest_is_the_smallest(tiny_shape: HybridShape) -> None:
    budget = memory_bytes(tiny_shape, WORKLOAD).total_bytes
    limits = Limits(
        budget_bytes=budget, device=DEVICE, lengths=Lengths(input_tokens=10**6, output_tokens=1), min_tokens_per_s=1
    )
    with pytest.raises(
        NothingFitsError, match=r"the nearest \(6 blocks, hidden_size 22, intermediate_size 12, mamba_num"
    ) as e:
        solve_budget(space_of(tiny_shape), WORKLOAD, limits, top_k=1)
    assert "leaves no room for one sequence of 1,000,001 tokens" in str(e.value)
    with pytest.raises(NothingFitsError, match="what binds is throughput"):
        solve_budget(
            space_of(tiny_shape), WORKLOAD, replace(limits, min_tokens_per_s=None), top_k=1, rank_by="throughput"
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ((0, 1), (0, 1))}, "choices of depth must differ"),
        ({"sizes": {"hidden_size": (22, 22)}}, r"must hold each size once, got \[22, 22\]"),
        ({"sizes": {"hidden": (22,)}}, "an axis must be one of hidden_size"),
    ],
)
def test_a_space_that_names_a_shape_twice_or_an_unknown_axis_is_refused(
    tiny_shape: HybridShape, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        space_of(tiny_shape, **changes)


def test_a_ratio_that_is_whole_but_for_its_binary_digits_is_taken() -> None:
    space = SearchSpace(source=NANO_12B, layers=((0, 1),), sizes={"hidden_size": (1600,)}, intermediate_ratios=(1.1,))
    assert next(space.grids()).shape_at(0).intermediate_size == 1760
