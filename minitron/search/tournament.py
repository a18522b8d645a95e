"""Tournament: successive halving over candidates, which the caller trains and measures.

Source: successive halving as in arXiv 1603.06560; ranking candidates after a short distillation as in arXiv 2408.11796.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from minitron.errors import BudgetError


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A candidate after a round.

    Attributes:
        tokens: Tokens it has been trained on in all rounds.
        loss: What candidates are ranked by; lower is better, infinite when training diverged.
        curve: (tokens, training loss) of all rounds.
    """

    tokens: int
    loss: float
    curve: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TournamentResult:
    """Result of a tournament.

    Attributes:
        order: Candidates, best first: those of the last round by their loss, then those eliminated before, the latest
            first.
        standings: For each candidate its standing after each round that it took part in.
    """

    order: tuple[int, ...]
    standings: tuple[tuple[Standing, ...], ...]


def run_tournament(
    num_candidates: int,
    play: Callable[[int, int], Standing],
    *,
    tokens: Sequence[int],
    keep: float,
    known: Mapping[tuple[int, int], Standing] | None = None,
    left: Callable[[int], None] = lambda candidate: None,
) -> TournamentResult:
    """Trains all candidates briefly, keeps the better fraction, trains those further, and so on.

    Args:
        num_candidates: How many there are; a candidate is its number.
        play: (candidate, tokens in all) -> its standing after training on so many, resumed from the round before.
        tokens: Tokens in all after each round, ascending.
        keep: Fraction of the candidates kept after a round, at least one.
        known: (candidate, tokens) -> a standing from an interrupted tournament, which is not trained again.
        left: Called with each candidate that is eliminated.

    Raises:
        BudgetError: There are no candidates or no rounds, a loss is not a number, or all are infinite.
    """
    if num_candidates < 1 or not tokens:
        raise BudgetError(f"a tournament needs candidates and rounds, got {num_candidates} and {len(tokens)}")
    standings: list[list[Standing]] = [[] for _ in range(num_candidates)]
    running = list(range(num_candidates))
    gone: list[int] = []
    for total in tokens:
        for candidate in running:
            standing = (known or {}).get((candidate, total)) or play(candidate, total)
            if math.isnan(standing.loss):
                raise BudgetError(f"a candidate's loss must be a number, that of {candidate} at {total} tokens is not")
            standings[candidate].append(standing)
        if all(math.isinf(standings[candidate][-1].loss) for candidate in running):
            raise BudgetError(f"every candidate diverged before {total} tokens; lower the learning rate")
        running.sort(key=lambda candidate: standings[candidate][-1].loss)
        if total != tokens[-1]:
            survivors = max(1, math.ceil(len(running) * keep))
            for candidate in running[survivors:]:
                left(candidate)
            gone = running[survivors:] + gone
            running = running[:survivors]
    return TournamentResult(order=(*running, *gone), standings=tuple(tuple(standing) for standing in standings))
