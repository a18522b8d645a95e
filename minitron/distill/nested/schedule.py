"""Which student each sequence of the text trains: a fixed cycle over positions, so that nothing has to be saved."""

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

# The key of a sample that says which student it trains.
STUDENT = "student"


def cycle_of(shares: Sequence[int]) -> tuple[int, ...]:
    """One round of the students' turns, each as often as its share and spread over the round.

    >>> cycle_of([1, 1, 2])
    (2, 0, 1, 2)
    """
    debts, turns = [0] * len(shares), []
    for _ in range(sum(shares)):
        debts = [debt + share for debt, share in zip(debts, shares, strict=True)]
        chosen = max(range(len(shares)), key=lambda number: debts[number])
        debts[chosen] -= sum(shares)
        turns.append(chosen)
    return tuple(turns)


class ScheduledSequences(Dataset[dict[str, torch.Tensor]]):
    """Sequences, each with the number of the student that it trains.

    A turn depends on the sequence's position alone: a training that is resumed, or shared out to several processes,
    gives every sequence to the same student.

    Args:
        sequences: What is trained on, by position.
        shares: Parts of the text, student by student.
        in_a_row: Sequences of one turn.
    """

    def __init__(
        self, sequences: Dataset[dict[str, torch.Tensor]], shares: Sequence[int], *, in_a_row: int = 1
    ) -> None:
        self._sequences = sequences
        self._cycle = cycle_of(shares)
        self._in_a_row = in_a_row

    def __len__(self) -> int:
        return len(self._sequences)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        turn = self._cycle[position // self._in_a_row % len(self._cycle)]
        return {**self._sequences[position], STUDENT: torch.tensor(turn)}
