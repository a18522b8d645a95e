"""The allocation is the brute-force optimum, and refuses what has none."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitron.errors import MinitronError
from minitron.search.allocation import allocate

# Few different numbers, so that ties and equal totals come up; fractions that fp64 rounds when it adds them.
COSTS = st.one_of(st.integers(-3, 5).map(lambda tenths: tenths / 10), st.floats(-1e3, 1e3))
OPTIONS = st.lists(st.tuples(COSTS, st.integers(0, 12)), min_size=1, max_size=4)


def every_choice(costs: list[list[float]], sizes: list[list[int]], budget: int) -> list[tuple[float, int]]:
    """(cost, size) of every choice within the budget, by enumeration."""
    found = []
    for choice in itertools.product(*(range(len(size_W)) for size_W in sizes)):
        cost = sum((cost_W[option] for cost_W, option in zip(costs, choice, strict=True)), start=0.0)
        size = sum(size_W[option] for size_W, option in zip(sizes, choice, strict=True))
        if size <= budget:
            found.append((cost, size))
    return found


@given(blocks=st.lists(OPTIONS, min_size=1, max_size=5), budget=st.integers(0, 60))
def test_the_allocation_is_the_optimum_of_all_choices(blocks: list[list[tuple[float, int]]], budget: int) -> None:
    costs, sizes = ([[option[which] for option in block] for block in blocks] for which in (0, 1))
    expected = every_choice(costs, sizes, budget)  # type: ignore[arg-type]
    if not expected:
        with pytest.raises(MinitronError, match="budget"):
            allocate(costs, sizes, budget)  # type: ignore[arg-type]
        return
    found = allocate(costs, sizes, budget)  # type: ignore[arg-type]
    assert (found.cost, found.size) == min(expected)
    assert found.cost == sum((costs[block][option] for block, option in enumerate(found.choices)), start=0.0)
    assert found.size == sum(sizes[block][option] for block, option in enumerate(found.choices))


def test_equal_blocks_of_convex_costs_get_equal_widths() -> None:
    widths = range(1, 9)
    found = allocate([[1 / width for width in widths]] * 6, [[*widths]] * 6, 6 * 5)
    assert found.choices == (4,) * 6


def test_many_blocks_of_bytes_are_allocated_in_moderate_time() -> None:
    sizes = [[5120 * 2 * 2 * 1024 * width for width in range(1, 21)]] * 62
    costs = [[(block + 1) / width for width in range(1, 21)] for block in range(62)]
    budget = sum(size_W[9] for size_W in sizes)
    found = allocate(costs, sizes, budget)
    assert found.size <= budget
    assert found.cost < sum(cost_W[9] for cost_W in costs)
    assert [*found.choices] == sorted(found.choices)


@pytest.mark.parametrize(
    ("costs", "sizes", "message"),
    [
        ([[1.0]], [[1, 2]], "same options"),
        ([[1.0], []], [[1], []], "block 1 has none"),
        ([[1.0, math.nan]], [[1, 2]], "finite"),
        ([[1.0, 2.0]], [[1, -2]], "negative"),
        ([[1.0], [1.0]], [[3], [4]], "they take 7, it is 6"),
    ],
)
def test_what_has_no_optimum_is_refused(costs: list[list[float]], sizes: list[list[int]], message: str) -> None:
    with pytest.raises(MinitronError, match=message):
        allocate(costs, sizes, 6)
