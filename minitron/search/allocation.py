"""Allocation: one width for each block under a budget for all, of the least total cost, by exact dynamic programming.

Costs are taken to add up over the blocks. Sizes are whole numbers (bytes, or units of a width), so the optimum is
exact: nothing is rounded to a grid.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from minitron.errors import MinitronError


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What each block is given.

    Attributes:
        choices: Block by block, which of its options.
        size: Their total size, at most the budget.
        cost: Their total cost, added block by block.
    """

    choices: tuple[int, ...]
    size: int
    cost: float


def allocate(costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], budget: int) -> Allocation:
    """The cheapest choice of one option a block whose sizes are together at most the budget.

    Of equally cheap choices it is one of the smallest. Blocks may have different numbers of options, in any order.

    Steps are at most blocks x options x the number of different totals up to the budget: 62 blocks with 20 widths of
    equal steps take about a second.

    Args:
        costs: Block by block, the cost of each of its options.
        sizes: Block by block, the size of each of its options, in the budget's unit.
        budget: Most that all blocks may take together.

    Raises:
        MinitronError: Costs and sizes are not of the same options, a block has none, a cost is not finite, a size is
            negative, or the smallest options are more than the budget.

    >>> allocate([[3.0, 0.0], [1.0, 0.0]], [[1, 2], [1, 2]], 3)
    Allocation(choices=(1, 0), size=3, cost=1.0)
    """
    _check(costs, sizes, budget)
    # What the blocks after each one need at least: a total that leaves less leads nowhere.
    needed = [*accumulate((min(size_W) for size_W in reversed(sizes)), initial=0)][::-1]
    front: list[tuple[int, float]] = [(0, 0.0)]  # (size, cost) of the blocks so far: larger ones are cheaper
    steps: list[list[tuple[int, int]]] = []
    for cost_W, size_W, later in zip(costs, sizes, needed[1:], strict=True):
        reached = sorted(
            (size + more, cost + worse, origin, choice)
            for origin, (size, cost) in enumerate(front)
            for choice, (worse, more) in enumerate(zip(cost_W, size_W, strict=True))
            if size + more + later <= budget
        )
        front, step = [], []
        for size, cost, origin, choice in reached:
            if not front or cost < front[-1][1]:
                front.append((size, cost))
                step.append((origin, choice))
        steps.append(step)
    size, cost = front[-1]
    return Allocation(choices=_walk_back(steps, len(front) - 1), size=size, cost=cost)


def _walk_back(steps: Sequence[Sequence[tuple[int, int]]], last: int) -> tuple[int, ...]:
    choices: list[int] = []
    for step in reversed(steps):
        last, choice = step[last]
        choices.append(choice)
    return tuple(reversed(choices))


def _check(costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], budget: int) -> None:
    if [len(cost_W) for cost_W in costs] != [len(size_W) for size_W in sizes]:
        raise MinitronError("costs and sizes must be of the same options of the same blocks, they are not")
    for block, (cost_W, size_W) in enumerate(zip(costs, sizes, strict=True)):
        if not size_W:
            raise MinitronError(f"a block must have at least one option, block {block} has none")
        if not all(map(math.isfinite, cost_W)):
            raise MinitronError(f"costs must be finite, those of block {block} are {list(cost_W)}")
        if min(size_W) < 0:
            raise MinitronError(f"sizes must not be negative, those of block {block} are {list(size_W)}")
    least = sum(map(min, sizes))
    if least > budget:
        raise MinitronError(f"a budget must hold the smallest options of all blocks, they take {least}, it is {budget}")
