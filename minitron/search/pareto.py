"""Pareto front: the points that no other point beats in every respect."""

import numpy as np
import numpy.typing as npt


def pareto_front(costs: npt.ArrayLike) -> list[bool]:
    """For each of N points with M costs, lower being better, whether no other is as low in all and lower in one.

    >>> pareto_front([[1, 5], [2, 2], [3, 3], [2, 2]])
    [True, True, False, True]
    """
    costs_NM = np.asarray(costs, dtype=np.float64)
    as_low_NN = (costs_NM[:, None, :] <= costs_NM[None, :, :]).all(axis=2)
    lower_NN = (costs_NM[:, None, :] < costs_NM[None, :, :]).any(axis=2)
    beaten_N = np.any(as_low_NN & lower_NN, axis=0)
    return [not beaten for beaten in beaten_N]
