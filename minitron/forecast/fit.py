"""Fits the law of a cut to measured points: least squares of the logarithm of KL."""

# N points, A axes, P parameters: of each axis the logarithms of scale and exponent, then that of the mixing

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from minitron.errors import MinitronError
from minitron.forecast.law import AxisLaw, CutLaw
from minitron.forecast.least_squares import Numbers, least_squares

# Pull of exponents and of the mixing towards 1, in standard errors of a point a factor of e: what few points of an axis
# do not say stays there, and what they do say outweighs it.
PULL = 0.05
LEAST_LOST = 1e-9  # a share that is lost counts from here on


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A measured cut.

    Attributes:
        lost: Axis -> share of its importance that is lost; an axis that is whole is not named.
        kl: KL to the teacher, nats a token, above 0.
    """

    lost: dict[str, float]
    kl: float


def fit_law(points: Sequence[Point], *, mixing: float | None = None) -> CutLaw:
    """The law that fits points best, by the squares of their relative errors.

    Args:
        points: At least one for each axis; more than one axis is cut in some where the mixing is to be found.
        mixing: How axes add up, where it is given; fitted when None.

    Raises:
        MinitronError: There are no points, or a KL is not a positive number.
    """
    if not points:
        raise MinitronError("a law needs measured points, there are none")
    wrong = next((each.kl for each in points if not (math.isfinite(each.kl) and each.kl > 0)), None)
    if wrong is not None:
        raise MinitronError(f"a measured KL must be a positive number, got {wrong}")
    axes = sorted({axis for each in points for axis, share in each.lost.items() if share > LEAST_LOST})
    lost_NA = np.array([[max(each.lost.get(axis, 0.0), 0.0) for axis in axes] for each in points])
    log_kl_N = np.log([each.kl for each in points])
    problem = _Problem(lost_NA=lost_NA, log_kl_N=log_kl_N, mixing=mixing)
    found_P = least_squares(problem.residuals, problem.start())
    log_scale_A, exponent_A, found_mixing = problem.parameters(found_P)
    laws = {
        axis: AxisLaw(scale=math.exp(log_scale), exponent=float(exponent))
        for axis, log_scale, exponent in zip(axes, log_scale_A, exponent_A, strict=True)
    }
    return CutLaw(axes=laws, mixing=found_mixing)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    lost_NA: Numbers
    log_kl_N: Numbers
    mixing: float | None

    def start(self) -> Numbers:
        # The KL of a point is shared out among the axes that it cuts; exponents and mixing are 1.
        cut_NA = self.lost_NA > LEAST_LOST
        share_N = np.exp(self.log_kl_N) / np.maximum(1, cut_NA.sum(axis=1))
        scales = [np.median((share_N / np.maximum(lost_N, LEAST_LOST))[cut_N]) for lost_N, cut_N in self._by_axis()]
        free = 1 if self.mixing is None else 0
        return np.concatenate([np.log(scales), np.zeros(len(scales) + free)])

    def residuals(self, x_P: Numbers) -> Numbers:
        log_scale_A, exponent_A, mixing = self.parameters(x_P)
        cut_NA: npt.NDArray[np.bool_] = self.lost_NA > LEAST_LOST
        log_lost_NA = np.log(np.maximum(self.lost_NA, LEAST_LOST))
        log_alone_NA = np.where(cut_NA, mixing * (log_scale_A + exponent_A * log_lost_NA), -np.inf)
        predicted_N = np.logaddexp.reduce(log_alone_NA, axis=1) / mixing
        pulled_P = PULL * x_P[len(log_scale_A) :]
        return np.concatenate([predicted_N - self.log_kl_N, pulled_P])

    def parameters(self, x_P: Numbers) -> tuple[Numbers, Numbers, float]:
        number = self.lost_NA.shape[1]
        mixing = self.mixing if self.mixing is not None else math.exp(float(np.clip(x_P[-1], -3, 3)))
        return x_P[:number], np.exp(np.clip(x_P[number : 2 * number], -3, 3)), mixing

    def _by_axis(self) -> list[tuple[Numbers, npt.NDArray[np.bool_]]]:
        return [(lost_N, lost_N > LEAST_LOST) for lost_N in self.lost_NA.T]
