"""Statistics of a model's blocks: collected by hooks while samples run, and turned into scores block by block."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from minitron.distributed import Ranks
from minitron.runtime.backbone import Block
from minitron.runtime.hooks import Accumulator, HookSite, State, collecting

Key = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One accumulator of a block.

    Attributes:
        site: Where in the block it is attached.
        accumulator: Makes a fresh one.
    """

    site: HookSite
    accumulator: Callable[[], Accumulator]


class BlockStatistic(Protocol):
    """A kind of statistic: what it collects in a block, and the scores that follow from it."""

    def probes(self, layer: int, block: nn.Module) -> Mapping[str, Probe]:
        """Name -> probe, of what is collected in a block; names are not shared with other statistics."""

    def scores(self, layer: int, block: nn.Module, collected: Mapping[str, Accumulator]) -> Mapping[str, torch.Tensor]:
        """Axis -> fp64 scores on the CPU, from a block's accumulators over all samples."""


class StatisticsCollector:
    """What several statistics have collected of each block, and the scores of the blocks that are finished.

    Attributes:
        scores: (axis, layer) -> scores.
    """

    def __init__(self, statistics: Sequence[BlockStatistic]) -> None:
        self._statistics = statistics
        self._collected: dict[int, dict[str, Accumulator]] = {}
        self._restored: dict[int, dict[str, State]] = {}  # of blocks that have not been met since
        self.scores: dict[Key, torch.Tensor] = {}

    def collecting(self, blocks: Iterable[Block], mask_BT: torch.Tensor | None) -> AbstractContextManager[None]:
        """Collects what one batch shows on its way through some blocks, inside the `with`.

        Args:
            blocks: The blocks, in evaluation mode.
            mask_BT: Which tokens of the batch count; all when None.
        """
        attachments = [
            (block, probe.site, self._accumulators(layer, block)[name])
            for layer, block in blocks
            for statistic in self._statistics
            for name, probe in statistic.probes(layer, block).items()
        ]
        return collecting(attachments, mask_BT)

    def finish(self, blocks: Iterable[Block], ranks: Ranks) -> None:
        """Turns the statistics of some blocks, merged over all ranks, into their scores."""
        for layer, block in blocks:
            own = self._accumulators(layer, block)
            for statistic in self._statistics:
                merged = {name: probe.accumulator() for name, probe in statistic.probes(layer, block).items()}
                for name, accumulator in merged.items():
                    for state in ranks.gather(own[name].state):
                        accumulator.merge(state)
                found = statistic.scores(layer, block, merged) if merged else {}
                self.scores |= {(axis, layer): score for axis, score in found.items()}

    def forget(self, layer: int) -> None:
        """Drops the statistics of a finished block and keeps its scores."""
        self._collected.pop(layer, None)

    def state(self) -> State:
        """Everything collected so far as named tensors: statistics, or the scores of blocks that were forgotten."""
        collected = self._restored | {
            layer: {name: accumulator.state for name, accumulator in accumulators.items()}
            for layer, accumulators in self._collected.items()
        }
        scores = {
            f"score/{axis}/{layer}": score for (axis, layer), score in self.scores.items() if layer not in collected
        }
        return scores | {
            f"collected/{layer}/{name}/{part}": value
            for layer, states in collected.items()
            for name, state in states.items()
            for part, value in state.items()
        }

    def restore(self, state: Mapping[str, torch.Tensor], *, before: int, device: torch.device) -> None:
        """Resumes from a saved state; scores are taken of the layers below `before`."""
        for key, value in state.items():
            match key.split("/"):
                case ["score", axis, layer] if int(layer) < before:
                    self.scores[axis, int(layer)] = value
                case ["collected", layer, name, part]:
                    self._restored.setdefault(int(layer), {}).setdefault(name, {})[part] = value.to(device)

    def _accumulators(self, layer: int, block: nn.Module) -> dict[str, Accumulator]:
        if layer not in self._collected:
            self._collected[layer] = {
                name: probe.accumulator()
                for statistic in self._statistics
                for name, probe in statistic.probes(layer, block).items()
            }
            for name, state in self._restored.pop(layer, {}).items():
                self._collected[layer][name].state = state
        return self._collected[layer]
