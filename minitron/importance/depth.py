"""Depth score: block influence, one minus the cosine between what enters a block and what leaves it."""

# B samples, T tokens, D hidden, L layers

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from minitron.importance.scores import ScoreArray


class BlockInfluence:
    """Running mean over tokens of 1 - cos(block input, block output), for every block.

    Source: arXiv 2403.03853 (block influence); the one-shot depth score of arXiv 2407.14679.
    """

    def __init__(self, num_hidden_layers: int) -> None:
        self._sums: ScoreArray = np.zeros(num_hidden_layers)
        self._tokens = 0.0
        self._mask_BT: torch.Tensor | None = None

    @contextmanager
    def listening(self, blocks: nn.ModuleList) -> Iterator[None]:
        """Hooks every block and removes the hooks at the end."""
        handles = [
            block.register_forward_hook(self._hook(layer), with_kwargs=True) for layer, block in enumerate(blocks)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def set_mask(self, mask_BT: torch.Tensor | None) -> None:
        """The tokens of the next batch that count; None counts all."""
        self._mask_BT = mask_BT

    def result(self) -> ScoreArray:
        """[L], larger where a block changes its input more."""
        return self._sums / max(self._tokens, 1.0)

    def _hook(self, layer: int) -> Any:
        def add(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], after_BTD: torch.Tensor) -> None:
            before_BTD = args[0] if args else kwargs["hidden_states"]
            change_BT = 1 - torch.cosine_similarity(before_BTD.float(), after_BTD.float(), dim=-1)
            mask_BT = torch.ones_like(change_BT) if self._mask_BT is None else self._mask_BT.float()
            self._sums[layer] += float((change_BT * mask_BT).sum())
            if layer == 0:
                self._tokens += float(mask_BT.sum())

        return add
