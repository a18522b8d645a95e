"""The law of a cut: known laws are found again, from clean and from noisy points."""

import itertools
import math

import numpy as np
import pytest

from minitron.forecast.fit import Point, fit_law
from minitron.forecast.law import AxisLaw, CutLaw
from tests.support.forecasts import MIXING, TRUTH, draw_mix, synthetic_points, true_kl


def test_a_known_law_is_found_again() -> None:
    law = fit_law(synthetic_points(np.random.default_rng(0), mixes=12, noise=0.0))
    assert law.mixing == pytest.approx(MIXING, rel=0.02)
    for axis, (scale, exponent) in TRUTH.items():
        assert law.axes[axis].scale == pytest.approx(scale, rel=0.05)
        assert law.axes[axis].exponent == pytest.approx(exponent, rel=0.02)


def test_noise_of_ten_percent_is_averaged_away() -> None:
    rng = np.random.default_rng(1)
    law = fit_law(synthetic_points(rng, mixes=12, noise=0.1))
    errors = [math.log(float(law.predict(lost)) / true_kl(lost)) for lost in (draw_mix(rng) for _ in range(50))]
    assert np.sqrt(np.mean(np.square(errors))) < 0.1


def test_one_axis_in_powers_is_the_line_that_least_squares_give_in_logarithms() -> None:
    lost_N, kl_N = np.array([0.01, 0.03, 0.1, 0.3]), np.array([0.004, 0.02, 0.05, 0.31])
    points = [Point(lost={"layers": float(lost)}, kl=float(kl)) for lost, kl in zip(lost_N, kl_N, strict=True)]
    exponent, log_scale = np.polyfit(np.log(lost_N), np.log(kl_N), 1)
    law = fit_law(points, mixing=1.0).axes["layers"]
    assert law.exponent == pytest.approx(exponent, rel=1e-3)  # the pull towards 1 is what differs
    assert math.log(law.scale) == pytest.approx(log_scale, abs=5e-3)


def test_of_one_size_alone_the_exponent_stays_at_one() -> None:
    law = fit_law([Point(lost={"layers": 0.1}, kl=0.05)], mixing=1.0)
    assert law.axes["layers"].exponent == pytest.approx(1.0, abs=1e-6)
    assert float(law.predict({"layers": 0.1})) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize("mixing", [0.5, 1.0, None])
@pytest.mark.parametrize("seed", range(3))
def test_losing_more_on_any_axis_never_predicts_a_lower_kl(mixing: float | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [Point(lost=draw_mix(rng), kl=float(rng.uniform(0.01, 1))) for _ in range(12)]  # no law at all
    law = fit_law(points, mixing=mixing)
    grid = [0.0, 0.01, 0.1, 0.3]
    for shares in itertools.product(grid, repeat=len(TRUTH)):
        lost = dict(zip(TRUTH, shares, strict=True))
        for axis in TRUTH:
            assert law.predict(lost | {axis: lost[axis] + 0.05}) >= law.predict(lost)


def test_arrays_are_predicted_as_one_shape_is() -> None:
    law = CutLaw(axes={"a": AxisLaw(scale=2.0, exponent=1.3), "b": AxisLaw(scale=0.5, exponent=0.7)}, mixing=0.8)
    a_N, b_N = np.array([[0.0], [0.1]]), np.array([[0.2, 0.0]])
    found = law.predict({"a": a_N, "b": b_N})
    expected = [[float(law.predict({"a": a, "b": b})) for b in b_N[0]] for a in a_N[:, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[0, 1] == 0.0


@pytest.mark.parametrize("kl", [0.0, -0.1, math.nan, math.inf])
def test_a_kl_that_is_no_positive_number_is_refused(kl: float) -> None:
    with pytest.raises(ValueError, match="a measured KL must be a positive number, got"):
        fit_law([Point(lost={"layers": 0.1}, kl=kl)])


def test_no_points_are_refused() -> None:
    with pytest.raises(ValueError, match="a law needs measured points"):
        fit_law([])
