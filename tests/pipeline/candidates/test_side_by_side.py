"""Numbers measured by several processes: each once, faults as in one process, and nothing left running."""

import multiprocessing
from contextlib import closing

import pytest

from minitron.errors import DataError, MinitronError
from minitron.pipeline.candidates.side_by_side import measure_side_by_side
from tests.pipeline.candidates import workers

pytestmark = pytest.mark.processes


def test_every_number_is_measured_once_and_both_processes_work() -> None:
    found = list(measure_side_by_side(workers.squares, range(9), 2))
    assert sorted((number, square) for number, (square, _) in found) == [(number, number**2) for number in range(9)]
    assert len({process for _, (_, process) in found}) == 2
    assert not multiprocessing.active_children()


def test_no_more_processes_start_than_there_are_numbers() -> None:
    found = list(measure_side_by_side(workers.squares, [5], 3))
    assert [(number, square) for number, (square, _) in found] == [(5, 25)]


@pytest.mark.parametrize(
    ("begin", "kind", "fault"),
    [
        (workers.refuses_three, DataError, "three cannot be used"),
        (workers.asks_for_too_much, DataError, "there is no text"),
        (workers.is_killed, MinitronError, "ended by signal 9.*set search.processes lower"),
        (workers.fails, RuntimeError, "ended with code 1"),
    ],
)
def test_what_ends_a_process_is_raised_and_ends_the_others(
    begin: workers.Callable[[], workers.Callable[[int], int]], kind: type[Exception], fault: str
) -> None:
    with pytest.raises(kind, match=fault) as raised:
        list(measure_side_by_side(begin, range(6), 2))
    assert raised.type is kind
    assert not multiprocessing.active_children()


def test_an_iteration_that_ends_early_ends_the_processes() -> None:
    with closing(measure_side_by_side(workers.squares, range(1000), 2)) as found:
        next(found)
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children()
