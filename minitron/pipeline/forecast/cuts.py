"""What a fitted law says of cuts: each axis alone, the least KL at every number of bytes, and within the limits."""

# S shapes of a grid

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from minitron.forecast.cut_forecast import ROUNDING, CutForecast
from minitron.forecast.least_squares import Numbers
from minitron.forecast.record import AxisForecast, PredictedCut
from minitron.models.axes import Indices
from minitron.pipeline.forecast.space import ForecastSpace
from minitron.pipeline.sections import search_limits
from minitron.recipe.recipe import Recipe
from minitron.search.design import axis_options, cut_to
from minitron.search.limits import Limits, count_grid
from minitron.search.solver import Candidate
from minitron.search.space import ShapeGrid

FRONT_POINTS = 12  # stretches of bytes, of each of which the least KL is told


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPredictor:
    """Predicts the cuts of a recipe.

    Attributes:
        recipe: The recipe.
        space: The scored source and what is searched.
        forecast: The fitted law.
    """

    recipe: Recipe
    space: ForecastSpace
    forecast: CutForecast

    def predicted(self, candidate: Candidate) -> PredictedCut:
        """A candidate's forecast, or how it is outside what was measured."""
        cut = self.space.cut_sizes(candidate)
        outside = self.forecast.outside(cut.lost)
        kl = self.forecast.interval(cut.lost) if outside is None else None
        return PredictedCut(cut=cut, kl=kl, outside=outside)

    def axes(self) -> tuple[AxisForecast, ...]:
        """Each axis alone, at every size that the search tries."""
        found = []
        for axis, sizes in axis_options(self.space.space).items():
            law = self.forecast.law.axes.get(axis)
            cuts = [cut_to(self.space.space, self.recipe.budget.workload, {axis: size}) for size in sizes]
            if law is not None:
                predicted = tuple(self.predicted(each) for each in cuts if each is not None)
                found.append(AxisForecast(axis=axis, scale=law.scale, exponent=law.exponent, cuts=predicted))
        return tuple(found)

    def front(self) -> tuple[tuple[PredictedCut, ...], PredictedCut | None]:
        """Shapes that no other one of the search beats in bytes and KL, and the best one within the recipe's limits.

        Of every stretch of bytes the one with the least KL is looked at; shapes outside what was measured are not.
        """
        limits = search_limits(self.recipe)
        edges = self._edges(limits)
        best: dict[int, tuple[float, ShapeGrid, int]] = {}
        for grid, kl_S, bytes_S, feasible_S in self._grids(limits):
            places_S = np.clip(np.searchsorted(edges, bytes_S, side="left"), 1, FRONT_POINTS)
            for place in range(FRONT_POINTS + 1):  # 0 stands for the limits
                rows = np.flatnonzero((feasible_S if place == 0 else places_S == place) & np.isfinite(kl_S))
                if len(rows):
                    row = int(rows[np.argmin(kl_S[rows])])
                    if float(kl_S[row]) < best.get(place, (math.inf,))[0]:
                        best[place] = (float(kl_S[row]), grid, row)
        at_limits = best.pop(0, None)
        predicted = [self._at(grid, row) for _, (_, grid, row) in sorted(best.items())]
        return _undominated(predicted), None if at_limits is None else self._at(*at_limits[1:])

    def _at(self, grid: ShapeGrid, row: int) -> PredictedCut:
        shape = grid.shape_at(row)
        sizes = {axis: shape.sizes[axis] for axis in shape.family.axes}
        found = cut_to(self.space.space, self.recipe.budget.workload, {**sizes, "layers": len(grid.layers)})
        assert found is not None
        return self.predicted(found)

    def _edges(self, limits: Limits) -> Numbers:
        totals = [bytes_S for _, _, bytes_S, _ in self._grids(limits)]
        low, high = min(int(each.min()) for each in totals), max(int(each.max()) for each in totals)
        return np.linspace(low, high, FRONT_POINTS + 1)

    def _grids(self, limits: Limits) -> Iterator[tuple[ShapeGrid, Numbers, Indices, npt.NDArray[np.bool_]]]:
        """Grids with KL (NaN outside what was measured), total bytes and whether the limits are met, [shapes] each."""
        forecast = self.forecast
        for grid in self.space.space.grids():
            counted = count_grid(grid, self.recipe.budget.workload, limits)
            lost = self.space.lost(grid.layers, grid.sizes)
            inside = np.asarray(True)
            for axis, share in lost.items():
                inside = np.asarray(inside & (share <= forecast.most_lost.get(axis, 0.0) + ROUNDING))
            kl = np.asarray(forecast.kl(lost))
            least, most = forecast.kl_range
            inside &= (kl >= least) & (kl <= most)
            kl_S = grid.spread(np.where(inside, kl, np.nan))
            if counted.possible is not None:
                kl_S = np.where(counted.possible, kl_S, np.nan)
            yield grid, kl_S, counted.total_bytes, counted.feasible


def _undominated(cuts: list[PredictedCut]) -> tuple[PredictedCut, ...]:
    """Those of cuts in the order of their bytes than which no smaller one has a KL as low."""
    found: list[PredictedCut] = []
    least = math.inf
    for each in cuts:
        if each.kl is not None and each.kl.predicted < least:
            least = each.kl.predicted
            found.append(each)
    return tuple(found)
