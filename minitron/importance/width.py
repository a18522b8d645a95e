"""Width statistics: what each axis's scorer accumulates of a block's activations, and the units' scores."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from minitron.importance.block_statistics import Probe
from minitron.importance.scorers.scorer import Scorer
from minitron.models.families.family import HookPoint
from minitron.models.shape import HybridShape
from minitron.runtime.hooks import Accumulator, site_of

# Scores of Mamba blocks are of heads and the channels of a head together; the heads' axis finds what reads them.
UNITS = {"mamba": "mamba_num_heads"}


class WidthStatistic:
    """Statistics of the activations that scorers use, at the hook points that the family names.

    Args:
        shape: The model's shape.
        scorers: Axis -> its scorer, of the axes that are scored.
    """

    def __init__(self, shape: HybridShape, scorers: Mapping[str, Scorer]) -> None:
        self._shape = shape
        self._scorers = scorers

    def probes(self, layer: int, block: nn.Module) -> Mapping[str, Probe]:
        """One probe for each hook point of each scored axis."""
        kind = self._shape.hybrid_override_pattern[layer]
        return {
            f"{axis}.{number}": Probe(
                site=site_of(point, kind, self._shape),
                accumulator=partial(self._scorers[axis].accumulator, axis, self._shape),
            )
            for axis, points in self._points(layer).items()
            for number, point in enumerate(points)
        }

    def scores(self, layer: int, block: nn.Module, collected: Mapping[str, Accumulator]) -> Mapping[str, torch.Tensor]:
        """Axis -> scores of the block's units, summed over the axis's hook points."""
        return {
            axis: torch.stack(
                [
                    self._score(axis, layer, point, block, collected[f"{axis}.{number}"])
                    for number, point in enumerate(points)
                ]
            ).sum(dim=0)
            for axis, points in self._points(layer).items()
        }

    def _score(
        self, axis: str, layer: int, point: HookPoint, block: nn.Module, accumulator: Accumulator
    ) -> torch.Tensor:
        kind, run_over = self._shape.hybrid_override_pattern[layer], UNITS.get(axis, axis)
        names = self._shape.family.readers(kind, point, run_over, self._shape.sizes)
        readers = [block.get_parameter(name).detach().flatten(0, -2) for name in names]
        return self._scorers[axis].score(axis, self._shape, accumulator, readers).cpu()

    def _points(self, layer: int) -> dict[str, tuple[HookPoint, ...]]:
        kind, named = self._shape.hybrid_override_pattern[layer], self._shape.family.hook_points
        found = {axis: named.get(scorer.activation(axis), {}) for axis, scorer in self._scorers.items()}
        return {axis: points[kind] for axis, points in found.items() if kind in points}
