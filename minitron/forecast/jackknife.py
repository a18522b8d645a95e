"""Prediction intervals from errors of points that were left out: the jackknife+.

Source: Barber, Candes, Ramdas and Tibshirani (2021), Annals of Statistics 49(1), arXiv 1905.02928, section 1.2. At a
confidence of 1 - alpha at least 1 - 2 alpha of new points are inside where they and the measured ones are exchangeable,
and about 1 - alpha are in practice.
"""

# N points

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minitron.errors import MinitronError


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A prediction with an interval, in the unit of what is predicted."""

    low: float
    predicted: float
    high: float


def fewest_points(confidence: float) -> int:
    """Points that an interval of a confidence needs at the least.

    >>> fewest_points(0.9), fewest_points(0.8)
    (9, 4)
    """
    return math.ceil(round(1 / (1 - confidence), 9)) - 1


def jackknife_interval(
    left_out_N: Sequence[float], errors_N: Sequence[float], *, confidence: float
) -> tuple[float, float]:
    """The jackknife+ interval of one new point.

    Args:
        left_out_N: What each fit without one of the points predicts for the new point.
        errors_N: Absolute error of each such fit at the point that it was made without.
        confidence: Share of new points that are to be inside.

    Raises:
        MinitronError: There are too few points for so much confidence.

    >>> jackknife_interval([1.0] * 4, [0.1, 0.2, 0.3, 0.4], confidence=0.8)
    (0.6, 1.4)
    """
    number = len(left_out_N)
    if number < fewest_points(confidence):
        raise MinitronError(
            f"an interval of {confidence:.0%} needs at least {fewest_points(confidence)} measured points, there are "
            f"{number}"
        )
    rank = math.ceil(round(confidence * (number + 1), 9))
    predicted_N, error_N = np.asarray(left_out_N), np.asarray(errors_N)
    high = float(np.sort(predicted_N + error_N)[rank - 1])
    low = float(-np.sort(error_N - predicted_N)[rank - 1])
    return low, high
