import math

import pytest

from minitron.search.tournament import Standing, run_tournament


class Players:
    """Candidates whose loss after so many tokens is known, and who note what they were asked to do."""

    def __init__(self, losses: dict[int, dict[int, float]]) -> None:
        self.losses = losses
        self.played: list[tuple[int, int]] = []
        self.gone: list[int] = []

    def play(self, candidate: int, tokens: int) -> Standing:
        self.played.append((candidate, tokens))
        return Standing(tokens=tokens, loss=self.losses[candidate][tokens], curve=((tokens, 1.0),))


LOSSES = {
    0: {10: 5.0, 20: 1.0, 40: 0.5},
    1: {10: 4.0, 20: 3.0, 40: 0.4},
    2: {10: 6.0},
    3: {10: 7.0},
    4: {10: 4.5, 20: 9},
}


def test_the_better_share_goes_on_and_the_last_round_decides() -> None:
    players = Players(LOSSES)
    result = run_tournament(5, players.play, tokens=(10, 20, 40), keep=0.5, left=players.gone.append)
    assert result.order == (1, 0, 4, 2, 3)
    assert [len(standing) for standing in result.standings] == [3, 3, 1, 1, 2]
    assert sorted(players.gone) == [2, 3, 4]
    assert len(players.played) == 5 + 3 + 2


def test_an_interrupted_tournament_plays_only_what_is_left_and_ends_the_same() -> None:
    whole = Players(LOSSES)
    expected = run_tournament(5, whole.play, tokens=(10, 20, 40), keep=0.5)
    for done in range(len(whole.played) + 1):
        known = {(c, t): Standing(tokens=t, loss=LOSSES[c][t], curve=((t, 1.0),)) for c, t in whole.played[:done]}
        rest = Players(LOSSES)
        assert run_tournament(5, rest.play, tokens=(10, 20, 40), keep=0.5, known=known) == expected
        assert rest.played == whole.played[done:]


def test_one_candidate_plays_every_round() -> None:
    players = Players(LOSSES)
    assert run_tournament(1, players.play, tokens=(10, 20, 40), keep=0.1).order == (0,)
    assert players.played == [(0, 10), (0, 20), (0, 40)]


def test_a_loss_that_is_no_number_is_an_error() -> None:
    players = Players({0: {10: math.nan}})
    with pytest.raises(ValueError, match="a candidate's loss must be a number"):
        run_tournament(1, players.play, tokens=(10,), keep=0.5)
