"""Measures numbered things in the processes of a launch, one for each of them at a time."""

from collections.abc import Iterator, Sequence
from functools import cache, partial

from minitron.distributed import Ranks
from minitron.pipeline.candidates.side_by_side import Begin, ResultT


def measure_in_turns(begin: Begin[ResultT], numbers: Sequence[int], ranks: Ranks) -> Iterator[tuple[int, ResultT]]:
    """Yields (number, what is measured of it) in order, the same in every process, turn after turn.

    Args:
        begin: Called once in each process that a number falls to.
        numbers: What to measure.
        ranks: The processes, which all call this.

    Raises:
        MinitronError: What the measuring raises in any of them.
        OtherProcessFailedError: A process failed otherwise.
    """
    begun = cache(begin)
    for first in range(0, len(numbers), ranks.world_size):
        turn = numbers[first : first + ranks.world_size]
        for number, found in zip(turn, ranks.each(partial(_own_part, begun, turn, ranks.rank)), strict=False):
            assert found is not None
            yield number, found


def _own_part(begin: Begin[ResultT], turn: Sequence[int], rank: int) -> ResultT | None:
    return begin()(turn[rank]) if rank < len(turn) else None
