"""Nonlinear least squares in float64, by Levenberg's and Marquardt's damped Gauss-Newton steps."""

# R residuals, P parameters

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

MOST_STEPS = 200
SMALL_STEP = 1e-6  # of a numeric derivative; residuals are of the order of 1
ENOUGH = 1e-12  # relative gain of a step below which the sum of squares counts as least


def least_squares(residuals: Callable[[Numbers], Numbers], start_P: Numbers) -> Numbers:
    """Parameters that make the sum of squared residuals least, at least near a start.

    The same arguments give the same parameters: nothing is random.

    Source: Marquardt (1963), SIAM Journal on Applied Mathematics 11(2), equations 14 and 27 to 31.

    Args:
        residuals: Parameters [P] -> residuals [R], finite near the start.
        start_P: Where to start.

    >>> least_squares(lambda x_P: np.array([x_P[0] - 3.0, 2.0 * (x_P[1] + 1.0)]), np.zeros(2)).round(6).tolist()
    [3.0, -1.0]
    """
    x_P = np.asarray(start_P, dtype=np.float64)
    found_R, damping = residuals(x_P), 1e-3
    for _ in range(MOST_STEPS):
        jacobian_RP = _jacobian(residuals, x_P)
        gradient_P, normal_PP = jacobian_RP.T @ found_R, jacobian_RP.T @ jacobian_RP
        scale_P = np.maximum(np.diag(normal_PP), 1e-12)
        before = float(found_R @ found_R)
        while damping < 1e12:
            tried_P = x_P - np.linalg.solve(normal_PP + damping * np.diag(scale_P), gradient_P)
            tried_R = residuals(tried_P)
            if np.isfinite(tried_R).all() and float(tried_R @ tried_R) < before:
                break
            damping *= 10
        else:
            return x_P
        x_P, found_R, damping = tried_P, tried_R, damping / 10
        if before - float(found_R @ found_R) <= ENOUGH * before:
            return x_P
    return x_P


def _jacobian(residuals: Callable[[Numbers], Numbers], x_P: Numbers) -> Numbers:
    steps_PP = SMALL_STEP * np.eye(len(x_P))
    columns = [(residuals(x_P + step_P) - residuals(x_P - step_P)) / (2 * SMALL_STEP) for step_P in steps_PP]
    return np.stack(columns, axis=1)
