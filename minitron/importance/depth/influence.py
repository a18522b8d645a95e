"""Block influence: one minus the cosine between what enters a block and what leaves it."""

# B samples, T tokens, D hidden, L blocks

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from minitron.distributed import Ranks
from minitron.importance.accumulators import State
from minitron.runtime.stack import Block


class BlockInfluence:
    """Mean over all counted tokens of 1 - cos(block input, block output), for every block.

    Source: arXiv 2403.03853 (block influence); the one-shot depth score of arXiv 2407.14679.
    """

    def __init__(self, num_hidden_layers: int) -> None:
        self._sums_L = torch.zeros(num_hidden_layers, dtype=torch.float64)
        self._tokens_L = torch.zeros(num_hidden_layers, dtype=torch.float64)

    @contextmanager
    def listening(self, blocks: Iterable[Block], mask_BT: torch.Tensor | None) -> Iterator[None]:
        """Hears one batch go through some blocks."""
        handles = [block.register_forward_hook(self._hook(layer, mask_BT), with_kwargs=True) for layer, block in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def result(self, ranks: Ranks) -> torch.Tensor:
        """[L] over all ranks, larger where a block changes its input more."""
        return ranks.sum(self._sums_L) / ranks.sum(self._tokens_L).clamp(min=1)

    def state(self) -> State:
        """Everything gathered so far."""
        return {"influence/sums": self._sums_L, "influence/tokens": self._tokens_L}

    def restore(self, state: Mapping[str, torch.Tensor], *, before: int) -> None:
        """Goes on from a saved state, of the layers below `before`."""
        self._sums_L, self._tokens_L = state["influence/sums"].clone(), state["influence/tokens"].clone()
        self._sums_L[before:], self._tokens_L[before:] = 0, 0

    def _hook(self, layer: int, mask_BT: torch.Tensor | None) -> Any:
        def add(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], after_BTD: torch.Tensor) -> None:
            change_BT = one_minus_cosine(args[0] if args else kwargs["hidden_states"], after_BTD)
            if mask_BT is not None:
                change_BT = change_BT.masked_fill(~mask_BT, 0)
            self._sums_L[layer] += float(change_BT.sum(dtype=torch.float64))
            self._tokens_L[layer] += change_BT.numel() if mask_BT is None else int(mask_BT.sum())

        return add


def one_minus_cosine(before_BTD: torch.Tensor, after_BTD: torch.Tensor) -> torch.Tensor:
    """[B, T] half the squared distance of the unit vectors, which is 1 - cos without its loss of digits near 0."""
    unit_BTD = torch.nn.functional.normalize(after_BTD.float(), dim=-1)
    unit_BTD -= torch.nn.functional.normalize(before_BTD.float(), dim=-1)
    distance_BT: torch.Tensor = torch.linalg.vector_norm(unit_BTD, dim=-1)
    return distance_BT.square() / 2
