"""Tokens to a KL: known curves are found again, and far ones are refused."""

import math

import numpy as np
import pytest

from minitron.forecast.recovery import Curve, RecoveryLaw, fit_recovery
from minitron.forecast.schedule import RateSchedule

LAW = RecoveryLaw(floor=0.03, gain=0.17, delay=20_000, exponent=0.6, of_rate=0.004)


def curve(tokens: float, *, noise: float = 0.0, points: int = 16, seed: int = 0) -> Curve:
    rng, schedule = np.random.default_rng(seed), RateSchedule(tokens=tokens, warmup=0.1)
    found = []
    for at in np.linspace(0, tokens, points):
        kl = float(LAW.predict(at, schedule.rate(at))) * math.exp(noise * float(rng.standard_normal()))
        found.append((float(at), kl))
    return Curve(points=tuple(found), schedule=schedule)


def test_a_known_curve_is_continued() -> None:
    found = fit_recovery([curve(100_000)])
    for tokens in (50_000, 100_000, 200_000, 400_000):
        assert found.predict(tokens).predicted == pytest.approx(float(LAW.predict(tokens)), rel=0.05)


def test_a_noisy_curve_is_continued_within_the_interval() -> None:
    for seed in range(5):
        found = fit_recovery([curve(100_000, noise=0.02, seed=seed)])
        for tokens in (100_000, 200_000, 400_000):
            interval = found.predict(tokens)
            assert interval.low <= float(LAW.predict(tokens)) <= interval.high


def test_a_longer_curve_beside_it_narrows_what_is_far() -> None:
    near, both = fit_recovery([curve(25_000, noise=0.01)]), fit_recovery([curve(25_000), curve(100_000)])
    assert both.tokens == 4 * near.tokens
    truth = float(LAW.predict(100_000))
    assert abs(both.predict(100_000).predicted - truth) <= abs(near.predict(100_000).predicted - truth)


def test_tokens_to_a_kl_are_where_the_curve_reaches_it() -> None:
    found = fit_recovery([curve(100_000)])
    low, tokens, high = found.tokens_to(float(LAW.predict(150_000)))
    assert low is not None
    assert tokens == pytest.approx(150_000, rel=0.1)
    assert low <= 150_000
    assert high is None or high >= 150_000


def test_beyond_four_times_the_tokens_seen_nothing_is_said() -> None:
    found = fit_recovery([curve(100_000)])
    assert found.tokens_to(0.031)[1] is None
    with pytest.raises(ValueError, match="goes to 4 times the 100,000 tokens seen, 500,000 are asked for"):
        found.predict(500_000)


def test_intervals_widen_with_the_distance() -> None:
    found = fit_recovery([curve(100_000, noise=0.02)])
    widths = [math.log(one.high / one.low) for one in map(found.predict, (100_000, 200_000, 400_000))]
    assert widths == sorted(widths)


@pytest.mark.parametrize(
    ("points", "fault"),
    [
        (((0.0, 0.2), (1.0, 0.1)), "needs at least 6 points of a curve, there are 2"),
        (tuple((float(at), 0.0) for at in range(8)), "must be positive numbers"),
    ],
)
def test_curves_that_say_nothing_are_refused(points: tuple[tuple[float, float], ...], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        fit_recovery([Curve(points=points, schedule=RateSchedule(tokens=8))])
