"""Width statistics: the published activation statistic, accumulated at the places that the family names."""

# B samples, T tokens, D hidden, F ffn, H mamba heads, P head dim, C channels of the tensor heard

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from minitron.hybrid.axes import part_range
from minitron.hybrid.families import Tap
from minitron.hybrid.shape import HybridShape
from minitron.importance.scores import ScoreArray

TapKey = tuple[str, int]


class WidthStatistics:
    """Running L2 over samples of the mean over tokens of |activation|, for every tap of a model.

    Source: arXiv 2407.14679 and 2504.11409 (the published activation scores). Sums are kept in fp32 on the model's
    device, one vector a tap, whatever the number of samples.
    """

    def __init__(self, shape: HybridShape) -> None:
        self._shape = shape
        self._sums: dict[TapKey, torch.Tensor] = {}
        self._mask_BT: torch.Tensor | None = None

    @contextmanager
    def listening(self, blocks: nn.ModuleList) -> Iterator[None]:
        """Hooks every tap of the blocks and removes the hooks at the end. The model must be in evaluation mode."""
        handles = []
        for statistic, taps in self._shape.family.taps.items():
            for layer, kind in enumerate(self._shape.hybrid_override_pattern):
                if kind in taps:
                    module = blocks[layer].get_submodule(taps[kind].module)
                    handles.append(self._attach(module, taps[kind], kind, (statistic, layer)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def set_mask(self, mask_BT: torch.Tensor | None) -> None:
        """The tokens of the next batch that count; None counts all."""
        self._mask_BT = mask_BT

    def result(self, statistic: str) -> dict[int, ScoreArray]:
        """Layer -> [C] of one statistic, in the order of layers."""
        return {
            layer: torch.sqrt(self._sums[name, layer]).cpu().numpy().astype(np.float64)
            for name, layer in sorted(self._sums)
            if name == statistic
        }

    def _attach(self, module: nn.Module, tap: Tap, kind: str, key: TapKey) -> Any:
        if tap.side == "input":
            return module.register_forward_pre_hook(lambda _module, args: self._add(key, tap, kind, args[0]))
        return module.register_forward_hook(lambda _module, _args, output: self._add(key, tap, kind, output))

    def _add(self, key: TapKey, tap: Tap, kind: str, heard_BTC: torch.Tensor) -> None:
        if tap.part is not None:
            name, dim, part = tap.part
            spec = self._shape.family.block_tensor(kind, name)
            start, stop = part_range(spec.dims[dim], part, self._shape.sizes)
            heard_BTC = heard_BTC[..., start:stop]
        mean_BC = mean_abs_over_tokens(heard_BTC, self._mask_BT)
        sum_C = mean_BC.square().sum(dim=0)
        self._sums[key] = self._sums[key] + sum_C if key in self._sums else sum_C


def mean_abs_over_tokens(x_BTC: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    """[B, C] in fp32: mean of |x| over the tokens of each sample that the mask counts."""
    size_BTC = x_BTC.detach().abs().float()
    if mask_BT is None:
        return size_BTC.mean(dim=1)
    weight_BT = mask_BT.float()
    return torch.einsum("btc,bt->bc", size_BTC, weight_BT) / weight_BT.sum(dim=1, keepdim=True).clamp(min=1)
