"""The walk over rates and the rule that picks one, on losses that are given."""

import math
from collections.abc import Callable

import pytest

from minitron.distill.training.rate_search import AS_GOOD, FIRST, LADDER, choose, walk
from minitron.distill.training.record import RateTrial

START = 1.0


def valley(best: float, *, gain: float = 0.5) -> Callable[[float], float]:
    """Losses after trials of which the one at a rate gains most: lower rates gain less, higher ones soon lose."""

    def loss(rate: float) -> float:
        octaves = math.log2(rate / best)
        return START - gain * (2 ** (octaves / 2) if octaves <= 0 else 1 - octaves / 2)

    return loss


@pytest.mark.parametrize("best", LADDER)
def test_the_best_rate_of_a_valley_is_tried_wherever_it_lies(best: float) -> None:
    found = walk(valley(best), START, LADDER, FIRST)
    rates = [one.rate for one in found]
    assert best in rates
    assert rates == sorted(rates)
    assert rates == list(LADDER[LADDER.index(rates[0]) : LADDER.index(rates[-1]) + 1])
    rate, _ = choose(START, found)
    assert START - valley(best)(rate) >= AS_GOOD * (START - valley(best)(best))


def test_the_largest_of_the_rates_that_are_as_good_is_taken() -> None:
    gains = {1e-4: 0.3, 2e-4: 0.5, 4e-4: AS_GOOD * 0.5 + 1e-6, 8e-4: AS_GOOD * 0.5 - 1e-6}
    trials = [RateTrial(rate=rate, loss=START - gain) for rate, gain in gains.items()]
    assert choose(START, trials)[0] == 4e-4


def test_a_trial_that_is_not_finite_ends_the_walk_and_is_not_taken() -> None:
    tried: list[float] = []

    def trial(rate: float) -> float:
        tried.append(rate)
        return START - rate if rate < 1e-3 else math.inf

    found = walk(trial, START, LADDER, FIRST)
    assert max(tried) == min(rate for rate in LADDER if rate >= 1e-3)
    assert found[-1].loss is None
    rate, _ = choose(START, found)
    assert rate == max(rate for rate in LADDER if rate < 1e-3)


def test_where_no_rate_gains_anything_the_lowest_is_taken_and_that_is_said() -> None:
    found = walk(lambda rate: START + rate, START, LADDER, FIRST)
    assert found[0].rate == LADDER[0]
    rate, reason = choose(START, found)
    assert rate == LADDER[0]
    assert "no rate gained anything" in reason


def test_a_start_that_is_not_finite_is_no_reason_to_fail() -> None:
    found = walk(lambda _: math.inf, math.inf, LADDER, FIRST)
    assert choose(math.inf, found)[0] in LADDER
