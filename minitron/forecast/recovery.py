"""The law of a recovery: KL to the teacher against tokens of distillation, by a power law with a floor.

The form is that of scaling laws in data (arXiv 2203.15556, equation 2), moved so that it starts at a finite KL. While
the learning rate is high a student is worse than it will be once the rate has decayed (arXiv 2410.05192, section 3), so
a term in proportion to the rate is fitted beside it; it is 0 at the end of a schedule.
"""

# N points, P parameters: logarithms of floor, gain, delay, exponent and of what the rate costs

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minitron.errors import MinitronError
from minitron.forecast.jackknife import Interval
from minitron.forecast.least_squares import Numbers, least_squares
from minitron.forecast.schedule import RateSchedule

FEWEST_POINTS = 6
# Pull of parameters towards where the fit starts, in standard errors of a point a factor of e.
PULL = 0.05
FARTHEST = 4.0  # times the tokens seen
HELD_BACK = 0.5  # a law fitted to the curve up to this share of its tokens is held against the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A distillation as validation text saw it.

    Attributes:
        points: (tokens, KL in nats a token), the start at 0 tokens among them.
        schedule: Its learning rate.
    """

    points: tuple[tuple[float, float], ...]
    schedule: RateSchedule

    @property
    def tokens(self) -> float:
        """Tokens of the last point."""
        return max(tokens for tokens, _ in self.points)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryLaw:
    """KL after so many tokens: floor + gain * (1 + tokens / delay) ** -exponent + of_rate * rate / peak rate.

    Attributes:
        floor: Nats a token.
        gain: Nats a token.
        delay: Tokens.
        exponent: Power.
        of_rate: Nats a token at the peak rate; 0 at the end of a schedule.
    """

    floor: float
    gain: float
    delay: float
    exponent: float
    of_rate: float

    def predict(self, tokens: "float | Numbers", rate: "float | Numbers" = 0.0) -> Numbers:
        """KL at a rate that is relative to its peak, nats a token; at the end of a schedule without one."""
        fallen = (1 + np.asarray(tokens, dtype=np.float64) / self.delay) ** -self.exponent
        return np.asarray(self.floor + self.gain * fallen + self.of_rate * np.asarray(rate))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """A law with what it misses by.

    Attributes:
        law: Fitted to all points.
        tokens: Longest training seen.
        error: Logarithm of the largest factor that the law misses a point by that it was fitted to.
        error_ahead: The same of a law that is fitted to the curves up to half of their tokens, over all; None where
            that half has too few points.
    """

    law: RecoveryLaw
    tokens: float
    error: float
    error_ahead: float | None

    @property
    def most_tokens(self) -> float:
        """How far the law is followed."""
        return FARTHEST * self.tokens

    def predict(self, tokens: float) -> Interval:
        """KL at the end of a distillation on so many tokens, with its interval, nats a token.

        The interval is as wide as errors were that the same law made over a factor of 2 ahead, and that much wider for
        each further factor of 2.

        Raises:
            MinitronError: So many tokens are outside what was seen.
        """
        if not 0 < tokens <= self.most_tokens:
            raise MinitronError(
                f"a forecast goes to {FARTHEST:g} times the {self.tokens:,.0f} tokens seen, {tokens:,.0f} are asked "
                "for; distill longer first"
            )
        kl, error = float(self.law.predict(tokens)), self._error(tokens)
        return Interval(low=kl * math.exp(-error), predicted=kl, high=kl * math.exp(error))

    def tokens_to(self, kl: float) -> tuple[float | None, float | None, float | None]:
        """Tokens that a distillation takes to a KL: at the favorable end, by the law, and at the other end.

        None where that is not within `most_tokens`.
        """
        tried_N = np.geomspace(self.tokens / 64, self.most_tokens, 1000)
        found = [self.predict(float(tokens)) for tokens in tried_N]
        ends = ([one.low for one in found], [one.predicted for one in found], [one.high for one in found])
        low, middle, high = (
            next((float(tokens) for tokens, reached in zip(tried_N, end, strict=True) if reached <= kl), None)
            for end in ends
        )
        return low, middle, high

    def _error(self, tokens: float) -> float:
        ahead = self.error if self.error_ahead is None else max(self.error, self.error_ahead)
        doublings = max(1.0, math.log2(tokens / self.tokens)) if tokens > self.tokens else 1.0
        return self.error if tokens <= self.tokens else ahead * doublings


def fit_recovery(curves: Sequence[Curve]) -> Recovery:
    """The law that fits curves of one student best, by the squares of their relative errors.

    Raises:
        MinitronError: There are too few points, or a KL is not a positive number.
    """
    points = [point for curve in curves for point in curve.points]
    if len(points) < FEWEST_POINTS:
        raise MinitronError(
            f"a forecast of a recovery needs at least {FEWEST_POINTS} points of a curve, there are {len(points)}; "
            "distill first, with distill.validation"
        )
    if not all(math.isfinite(kl) and kl > 0 for _, kl in points):
        raise MinitronError("the KL of a curve must be positive numbers, one is not")
    law = _fit(curves)
    halves = [_first_part(curve) for curve in curves]
    ahead = None
    if sum(len(half.points) for half in halves) >= FEWEST_POINTS:
        ahead = _largest_error(_fit(halves), curves)
    return Recovery(
        law=law,
        tokens=max(curve.tokens for curve in curves),
        error=_largest_error(law, curves),
        error_ahead=ahead,
    )


def _fit(curves: Sequence[Curve]) -> RecoveryLaw:
    tokens_N, log_kl_N, rate_N = _columns(curves)
    longest, most, least = float(tokens_N.max()), float(log_kl_N.max()), float(log_kl_N.min())
    start_P = np.array([least - 1, most, math.log(0.2 * longest), math.log(0.5), least - 3])

    def residuals(x_P: Numbers) -> Numbers:
        predicted_N = _law(x_P).predict(tokens_N, rate_N)
        return np.concatenate([np.log(predicted_N) - log_kl_N, PULL * (x_P - start_P)])

    return _law(least_squares(residuals, start_P))


def _law(x_P: Numbers) -> RecoveryLaw:
    floor, gain, delay, exponent, of_rate = (float(each) for each in np.exp(x_P))
    return RecoveryLaw(floor=floor, gain=gain, delay=delay, exponent=exponent, of_rate=of_rate)


def _columns(curves: Sequence[Curve]) -> tuple[Numbers, Numbers, Numbers]:
    rows = [(tokens, math.log(kl), curve.schedule.rate(tokens)) for curve in curves for tokens, kl in curve.points]
    tokens_N, log_kl_N, rate_N = np.array(rows, dtype=np.float64).T
    return tokens_N, log_kl_N, rate_N


def _first_part(curve: Curve) -> Curve:
    kept = tuple(point for point in curve.points if point[0] <= HELD_BACK * curve.tokens)
    return Curve(points=kept, schedule=curve.schedule)


def _largest_error(law: RecoveryLaw, curves: Sequence[Curve]) -> float:
    tokens_N, log_kl_N, rate_N = _columns(curves)
    return float(np.abs(np.log(law.predict(tokens_N, rate_N)) - log_kl_N).max())
