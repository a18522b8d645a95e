import torch
from hypothesis import given
from hypothesis import strategies as st

from minitron.distill.nested.schedule import STUDENT, ScheduledSequences, cycle_of


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_every_student_has_its_share_of_a_round_spread_evenly(shares: list[int]) -> None:
    cycle = cycle_of(shares)
    assert [cycle.count(number) for number in range(len(shares))] == shares
    for turns in range(1, len(cycle) + 1):
        for number, share in enumerate(shares):
            assert abs(cycle[:turns].count(number) - turns * share / sum(shares)) < len(shares)


def test_a_turn_depends_on_the_position_alone() -> None:
    samples = [{"input_ids": torch.tensor([number])} for number in range(20)]
    scheduled = ScheduledSequences(samples, [1, 2, 1])  # type: ignore[arg-type]
    assert len(scheduled) == 20
    forwards = [int(scheduled[position][STUDENT]) for position in range(20)]
    backwards = [int(scheduled[position][STUDENT]) for position in reversed(range(20))]
    assert forwards == backwards[::-1] == [*cycle_of([1, 2, 1])] * 5
    assert int(scheduled[7]["input_ids"]) == 7
