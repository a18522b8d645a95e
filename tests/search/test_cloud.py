"""The cloud holds every shape of the space once, and its front is the one that all pairs of shapes give."""

import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest

from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.models.shape import HybridShape
from minitron.search.cloud import Cloud, count_cloud, pareto_places
from minitron.search.limits import Limits
from minitron.search.pareto import pareto_front
from minitron.search.space import SearchSpace

SIZES = {"hidden_size": (22, 18, 14), "intermediate_size": (36, 30, 24, 18, 12), "mamba_num_heads": (8, 6)}
LAYERS = ((0, 1, 2, 3, 4, 5, 6, 7), (0, 2, 3, 4, 6, 7))
WORKLOAD = Workload(context_tokens=64)


def shares(layers: tuple[int, ...]) -> Mapping[str, npt.NDArray[np.float64]]:
    """Shares that are powers of sizes, so that axes differ in what they keep."""
    powers = {"hidden_size": (22, 0.9), "intermediate_size": (36, 0.4), "mamba_num_heads": (8, 0.7)}
    kept = {axis: (np.arange(size + 1) / size) ** power for axis, (size, power) in powers.items()}
    return {**kept, "layers": np.array([len(layers) / 8])}


def by_hand(shape: HybridShape) -> list[tuple[int, float, bool]]:
    """Bytes, what is kept and whether it fits, shape by shape."""
    budget, found = budget_of(shape), []
    for layers, hidden, ffn, heads in itertools.product(LAYERS, *SIZES.values()):
        small = shape.resized(layers=layers, hidden_size=hidden, intermediate_size=ffn, mamba_num_heads=heads)
        total = memory_bytes(small, WORKLOAD).total_bytes
        kept = (hidden / 22) ** 0.9 * (ffn / 36) ** 0.4 * (heads / 8) ** 0.7 * len(layers) / 8
        found.append((total, kept, total <= budget))
    return found


def budget_of(shape: HybridShape) -> int:
    return memory_bytes(shape, WORKLOAD).total_bytes * 3 // 4


def count(shape: HybridShape, **settings: int) -> Cloud:
    space = SearchSpace(source=shape, layers=LAYERS, sizes=SIZES)
    return count_cloud(space, WORKLOAD, Limits(budget_bytes=budget_of(shape)), shares, **settings)


def test_every_shape_is_a_point_of_its_own_where_there_are_few(tiny_shape: HybridShape) -> None:
    cloud, expected = count(tiny_shape), by_hand(tiny_shape)
    assert cloud.num_shapes == cloud.num_counted == cloud.num_possible == len(expected) == 60
    assert not cloud.binned
    points = [(int(one.total_bytes), one.retained, bool(one.feasible)) for one in cloud.points]
    for found, wanted in zip(sorted(points), sorted(expected), strict=True):
        assert found == (wanted[0], pytest.approx(wanted[1]), wanted[2])
    assert cloud.num_feasible == sum(fits for _, _, fits in expected)


def test_the_front_is_what_no_other_shape_beats(tiny_shape: HybridShape) -> None:
    expected = by_hand(tiny_shape)
    on_front = pareto_front([[total, -kept] for total, kept, _ in expected])
    wanted = sorted({(total, round(kept, 9)) for (total, kept, _), on in zip(expected, on_front, strict=True) if on})
    front = count(tiny_shape).front
    assert [(one.total_bytes, round(one.retained, 9)) for one in front] == wanted
    for point in front:
        assert memory_bytes(point.shape, WORKLOAD).total_bytes == point.total_bytes


def test_of_shapes_that_keep_the_same_only_the_smallest_is_on_the_front() -> None:
    bytes_S, retained_S = np.array([9, 4, 4, 7, 2, 5]), np.array([0.5, 0.5, 0.3, 0.5, 0.5, 0.6])
    assert pareto_places(bytes_S, retained_S) == [4, 5]


def test_points_of_a_large_space_stand_for_all_of_its_shapes(tiny_shape: HybridShape) -> None:
    cloud, expected = count(tiny_shape, most_points=20), by_hand(tiny_shape)
    assert cloud.binned
    assert sum(point.shapes for point in cloud.points) == 60
    assert sum(point.feasible for point in cloud.points) == cloud.num_feasible
    mean = sum(point.total_bytes * point.shapes for point in cloud.points) / 60
    assert mean == pytest.approx(sum(total for total, _, _ in expected) / 60)
    assert len(cloud.front) == 2  # thinned: its first and its last point
    whole = count(tiny_shape).front
    assert (cloud.front[0], cloud.front[-1]) == (whole[0], whole[-1])


def test_a_space_that_is_too_large_is_counted_in_part_and_says_so(tiny_shape: HybridShape) -> None:
    cloud = count(tiny_shape, most_counted=30)
    assert (cloud.num_shapes, cloud.num_counted) == (60, 30)
    assert {point.shape.num_hidden_layers for point in cloud.front} == {8}
