"""The forecast of a cut: KL with an interval, inside what was measured and nowhere else."""

# N points

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minitron.errors import MinitronError
from minitron.forecast.fit import LEAST_LOST, Point, fit_law
from minitron.forecast.jackknife import Interval, fewest_points, jackknife_interval
from minitron.forecast.law import CutLaw, Lost
from minitron.forecast.least_squares import Numbers

ROUNDING = 1e-9  # of shares and of logarithms, at the edge of what was measured


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A point that was left out of a fit.

    Attributes:
        point: The point.
        law: Fitted to the others.
        error: Logarithm of the point's KL over what that law predicts.
    """

    point: Point
    law: CutLaw
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CutForecast:
    """A law with what it misses by.

    Intervals of cuts of one axis are from points that cut one, those of mixes from mixes, where there are enough of
    each, since mixes, whose axes' errors even out, are missed by less; else both are from all points.

    Source of one interval a kind of point: Vovk, Gammerman and Shafer (2005), Algorithmic Learning in a Random World,
    section 4.5 (Mondrian confidence predictors).

    Attributes:
        law: Fitted to all points.
        left_out: What was fitted without each of the points in turn.
        confidence: Share of new points that are to be inside the interval.
        most_lost: Axis -> largest share of its importance that a measured point loses.
        least_kl: Smallest KL that was measured, nats a token.
        most_kl: Largest one.
    """

    law: CutLaw
    left_out: tuple[LeftOut, ...]
    confidence: float
    most_lost: Mapping[str, float]
    least_kl: float
    most_kl: float

    def kl(self, lost: Lost) -> Numbers:
        """KL by the law, for one shape or arrays of them, wherever they are; nats a token."""
        return self.law.predict(lost)

    def outside(self, lost: Mapping[str, float]) -> str | None:
        """How a cut is outside what was measured, in words; None where it is inside."""
        beyond = beyond_axes(lost, self.most_lost)
        if beyond is not None:
            most = self.most_lost.get(beyond, 0.0)
            measured = f"at most {most:.1%}" if most else "none of it"
            return f"it loses {lost[beyond]:.1%} of the importance of {beyond}, {measured} was measured"
        kl = float(self.kl(lost))
        least, most = self.kl_range
        if not least <= kl <= most:
            return f"its KL would be {kl:.3g}, {self.least_kl:.3g} to {self.most_kl:.3g} were measured"
        return None

    @property
    def kl_range(self) -> tuple[float, float]:
        """KL by the law that counts as measured, nats a token: from the smallest, less what the law may miss it by."""
        missed = sorted(abs(each.error) for each in self.left_out)
        rank = math.ceil(round(self.confidence * (len(missed) + 1), 9))
        return self.least_kl * math.exp(-missed[rank - 1]), self.most_kl * (1 + ROUNDING)

    def predict(self, lost: Mapping[str, float]) -> Interval:
        """KL to the teacher with its interval, nats a token.

        Raises:
            MinitronError: The cut is outside what was measured.
        """
        where = self.outside(lost)
        if where is not None:
            raise MinitronError(f"a forecast does not go beyond what was measured: {where}; measure deeper cuts")
        return self.interval(lost)

    def interval(self, lost: Mapping[str, float]) -> Interval:
        """KL with its interval, wherever the cut is; nats a token."""
        alike = [each for each in self.left_out if is_mix(each.point.lost) == is_mix(lost)]
        used = alike if len(alike) >= fewest_points(self.confidence) else self.left_out
        low, high = jackknife_interval(
            [math.log(float(each.law.predict(lost))) for each in used],
            [abs(each.error) for each in used],
            confidence=self.confidence,
        )
        return Interval(low=math.exp(low), predicted=float(self.kl(lost)), high=math.exp(high))


def is_mix(lost: Mapping[str, float]) -> bool:
    """Whether a cut loses importance on several axes."""
    return sum(share > LEAST_LOST for share in lost.values()) > 1


def beyond_axes(lost: Mapping[str, float], most_lost: Mapping[str, float]) -> str | None:
    """An axis on which a cut loses more than was measured; None where there is none."""
    beyond = (axis for axis, share in lost.items() if share > max(most_lost.get(axis, 0.0) + ROUNDING, LEAST_LOST))
    return next(beyond, None)


def make_cut_forecast(points: Sequence[Point], *, confidence: float, mixing: float | None = None) -> CutForecast:
    """Fits the law to all points and without each of them.

    A point is left out where the others reach as far on every axis and in KL: of any other one nothing would be
    predicted.

    Args:
        points: What was measured.
        confidence: Share of new points that are to be inside the interval.
        mixing: How axes add up, where it is given; fitted when None.

    Raises:
        MinitronError: The points are too few for so much confidence, or a KL is not a positive number.
    """
    law = fit_law(points, mixing=mixing)
    left_out = []
    for number, point in enumerate(points):
        others = [*points[:number], *points[number + 1 :]]
        if not others or beyond_axes(point.lost, _most_lost(others)) is not None:
            continue
        if min(each.kl for each in others) <= point.kl <= max(each.kl for each in others):
            without = fit_law(others, mixing=mixing)
            error = math.log(point.kl) - math.log(float(without.predict(point.lost)))
            left_out.append(LeftOut(point=point, law=without, error=error))
    if len(left_out) < fewest_points(confidence):
        raise MinitronError(
            f"an interval of {confidence:.0%} needs at least {fewest_points(confidence)} measured points inside the "
            f"range of the others, there are {len(left_out)}; raise forecast.levels or forecast.mixes, or lower "
            "forecast.confidence"
        )
    return CutForecast(
        law=law,
        left_out=tuple(left_out),
        confidence=confidence,
        most_lost=_most_lost(points),
        least_kl=min(each.kl for each in points),
        most_kl=max(each.kl for each in points),
    )


def _most_lost(points: Sequence[Point]) -> dict[str, float]:
    axes = {axis for each in points for axis, share in each.lost.items() if share > LEAST_LOST}
    return {axis: max(each.lost.get(axis, 0.0) for each in points) for axis in axes}
