"""The forecast of a cut: KL with an interval, inside what was measured and nowhere else."""

# N points

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minitron.errors import MinitronError
from minitron.forecast.fit import LEAST_LOST, Point, fit_law
from minitron.forecast.jackknife import Interval, fewest_points, jackknife_interval
from minitron.forecast.law import CutLaw, Lost, Numbers

ROUNDING = 1e-9  # of shares and of logarithms, at the edge of what was measured


@dataclass(frozen=True, slots=True, kw_only=True)
class CutForecast:
    """A law with what it misses by.

    Attributes:
        law: Fitted to all points.
        left_out: Fitted without each of the points in turn.
        errors: Logarithm of each point's KL over what the law without it predicts.
        confidence: Share of new points that are to be inside the interval.
        most_lost: Axis -> largest share of its importance that a measured point loses.
        least_kl: Smallest KL that was measured, nats a token.
        most_kl: Largest one.
    """

    law: CutLaw
    left_out: tuple[CutLaw, ...]
    errors: tuple[float, ...]
    confidence: float
    most_lost: Mapping[str, float]
    least_kl: float
    most_kl: float

    def kl(self, lost: Lost) -> Numbers:
        """KL by the law, for one shape or arrays of them, wherever they are; nats a token."""
        return self.law.predict(lost)

    def outside(self, lost: Mapping[str, float]) -> str | None:
        """How a cut is outside what was measured, in words; None where it is inside."""
        for axis, share in lost.items():
            most = self.most_lost.get(axis, 0.0)
            if share > most + ROUNDING and share > LEAST_LOST:
                measured = f"at most {most:.1%}" if most else "none of it"
                return f"it loses {share:.1%} of the importance of {axis}, {measured} was measured"
        kl = float(self.kl(lost))
        if not self.least_kl * (1 - ROUNDING) <= kl <= self.most_kl * (1 + ROUNDING):
            return f"its KL would be {kl:.3g}, {self.least_kl:.3g} to {self.most_kl:.3g} were measured"
        return None

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
        left_out = [math.log(float(law.predict(lost))) for law in self.left_out]
        low, high = jackknife_interval(left_out, [abs(error) for error in self.errors], confidence=self.confidence)
        return Interval(low=math.exp(low), predicted=float(self.kl(lost)), high=math.exp(high))


def make_cut_forecast(points: Sequence[Point], *, confidence: float, mixing: float | None = None) -> CutForecast:
    """Fits the law to all points and without each of them.

    A point that alone cuts some axis is not left out, since nothing would be known of that axis.

    Args:
        points: What was measured.
        confidence: Share of new points that are to be inside the interval.
        mixing: How axes add up, where it is given; fitted when None.

    Raises:
        MinitronError: The points are too few for so much confidence, or a KL is not a positive number.
    """
    law = fit_law(points, mixing=mixing)
    left_out, errors = [], []
    for number, point in enumerate(points):
        others = [*points[:number], *points[number + 1 :]]
        if not _axes(others) >= _axes([point]):
            continue
        without = fit_law(others, mixing=mixing)
        left_out.append(without)
        errors.append(math.log(point.kl) - math.log(float(without.predict(point.lost))))
    if len(errors) < fewest_points(confidence):
        raise MinitronError(
            f"an interval of {confidence:.0%} needs at least {fewest_points(confidence)} measured points that share "
            f"their axes with others, there are {len(errors)}; raise forecast.levels or forecast.mixes, or lower "
            "forecast.confidence"
        )
    return CutForecast(
        law=law,
        left_out=tuple(left_out),
        errors=tuple(errors),
        confidence=confidence,
        most_lost={axis: max(each.lost.get(axis, 0.0) for each in points) for axis in law.axes},
        least_kl=min(each.kl for each in points),
        most_kl=max(each.kl for each in points),
    )


def _axes(points: Sequence[Point]) -> set[str]:
    return {axis for each in points for axis, share in each.lost.items() if share > LEAST_LOST}
