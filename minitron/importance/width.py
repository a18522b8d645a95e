"""Width statistics of every block, heard by hooks at the places that the family names."""

# B samples, T tokens, C channels of what is heard

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from minitron.distributed import Ranks
from minitron.importance.accumulators import Accumulator, State
from minitron.importance.scorers.scorer import Scorer
from minitron.models.axes import part_range
from minitron.models.families.family import HookPoint
from minitron.models.shape import HybridShape
from minitron.runtime.stack import Block

Key = tuple[str, int]
# Scores of Mamba blocks are of heads and the channels of a head together; the heads' axis finds what reads them.
UNITS = {"mamba": "mamba_num_heads"}


class WidthStatistics:
    """The statistics that the scorers ask for, block by block, and the scores of the blocks that are finished."""

    def __init__(self, shape: HybridShape, scorers: Mapping[str, Scorer]) -> None:
        self._shape = shape
        self._scorers = scorers
        self._accumulators: dict[tuple[Key, int], Accumulator] = {}  # (axis, layer), number of the point
        self.scores: dict[Key, torch.Tensor] = {}

    @contextmanager
    def listening(self, blocks: Iterable[Block], mask_BT: torch.Tensor | None) -> Iterator[None]:
        """Hears one batch go through some blocks, which must be in evaluation mode: fused kernels skip submodules."""
        handles = []
        for layer, block in blocks:
            for axis, points in self._points(layer):
                for number, point in enumerate(points):
                    module = block.get_submodule(point.module)
                    handles.append(self._attach(module, point, ((axis, layer), number), mask_BT))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def finish(self, blocks: Iterable[Block], ranks: Ranks) -> None:
        """Turns the statistics of some blocks, taken together over all ranks, into their scores."""
        for layer, block in blocks:
            for axis, points in self._points(layer):
                heard = [self._score(axis, layer, number, point, block, ranks) for number, point in enumerate(points)]
                self.scores[axis, layer] = torch.stack(heard).sum(dim=0)

    def forget(self, layer: int) -> None:
        """Gives up the statistics of a finished block and keeps its scores."""
        self._accumulators = {key: value for key, value in self._accumulators.items() if key[0][1] != layer}

    def state(self) -> State:
        """Everything gathered so far, as named tensors: statistics, or the scores of blocks that gave them up."""
        heard = {key for key, _ in self._accumulators}
        state = {
            f"score/{axis}/{layer}": score for (axis, layer), score in self.scores.items() if (axis, layer) not in heard
        }
        for ((axis, layer), number), accumulator in self._accumulators.items():
            state |= {f"heard/{axis}/{layer}/{number}/{name}": value for name, value in accumulator.state.items()}
        return state

    def restore(self, state: Mapping[str, torch.Tensor], *, before: int, device: torch.device) -> None:
        """Goes on from a saved state; scores are taken of the layers below `before`."""
        for name, value in state.items():
            match name.split("/"):
                case ["score", axis, layer] if int(layer) < before:
                    self.scores[axis, int(layer)] = value
                case ["heard", axis, layer, number, part]:
                    self._accumulator(((axis, int(layer)), int(number))).state[part] = value.to(device)

    def _score(
        self, axis: str, layer: int, number: int, point: HookPoint, block: nn.Module, ranks: Ranks
    ) -> torch.Tensor:
        scorer = self._scorers[axis]
        together = scorer.accumulator(axis, self._shape)
        for state in ranks.gather(self._accumulator(((axis, layer), number)).state):
            together.merge(state)
        kind, run_over = self._shape.hybrid_override_pattern[layer], UNITS.get(axis, axis)
        names = self._shape.family.readers(kind, point, run_over, self._shape.sizes)
        readers = [block.get_parameter(name).detach().flatten(0, -2) for name in names]
        return scorer.score(axis, self._shape, together, readers).cpu()

    def _points(self, layer: int) -> Iterator[tuple[str, tuple[HookPoint, ...]]]:
        kind = self._shape.hybrid_override_pattern[layer]
        for axis, scorer in self._scorers.items():
            points = self._shape.family.hook_points.get(scorer.place(axis), {})
            if kind in points:
                yield axis, points[kind]

    def _attach(self, module: nn.Module, point: HookPoint, key: tuple[Key, int], mask_BT: torch.Tensor | None) -> Any:
        if point.side == "input":
            return module.register_forward_pre_hook(lambda _module, args: self._add(key, point, args[0], mask_BT))
        return module.register_forward_hook(lambda _module, _args, output: self._add(key, point, output, mask_BT))

    def _add(
        self, key: tuple[Key, int], point: HookPoint, heard_BTC: torch.Tensor, mask_BT: torch.Tensor | None
    ) -> None:
        if point.part is not None:
            name, dim, part = point.part
            spec = self._shape.family.block_tensor(self._shape.hybrid_override_pattern[key[0][1]], name)
            start, stop = part_range(spec.dims[dim], part, self._shape.sizes)
            heard_BTC = heard_BTC[..., start:stop]
        self._accumulator(key).add(heard_BTC, mask_BT)

    def _accumulator(self, key: tuple[Key, int]) -> Accumulator:
        if key not in self._accumulators:
            axis = key[0][0]
            self._accumulators[key] = self._scorers[axis].accumulator(axis, self._shape)
        return self._accumulators[key]
