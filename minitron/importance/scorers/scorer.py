"""What a scorer is: where it listens for an axis, what it accumulates there, and the scores that follow."""

from collections.abc import Sequence
from typing import Protocol

import torch

from minitron.importance.accumulators import Accumulator, sum_over_tokens
from minitron.models.shape import HybridShape

# Axes that have scores -> the place of the block's input or output projection where most scorers listen.
PLACES = {
    "hidden_size": "hidden",
    "intermediate_size": "ffn",
    "mamba": "mamba_output",
    "num_attention_heads": "attention_output",
    "moe_shared_expert_intermediate_size": "shared_ffn",
}
SCORED_AXES = tuple(PLACES)


class Scorer(Protocol):
    """One way to say how much each unit of an axis matters; larger means keep."""

    def place(self, axis: str) -> str:
        """The family's place to listen at."""

    def accumulator(self, axis: str, shape: HybridShape) -> Accumulator:
        """A fresh running statistic for one block."""

    def score(
        self, axis: str, shape: HybridShape, accumulator: Accumulator, readers: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """fp64 scores of one block's units.

        `hidden_size` [D], `intermediate_size` [F], `num_attention_heads` [heads]; `mamba` [H, P], of which heads and
        channels take the L2, or [H, P, P], of which they take the sum (see `minitron.importance.selection`).

        Args:
            axis: Which units.
            shape: Shape of the model.
            accumulator: What was heard, whole.
            readers: The weights that multiply it, [out, C] each.
        """


def column_energy(readers: Sequence[torch.Tensor]) -> torch.Tensor:
    """fp64 [C]: squared norm of each column, over all weights that read it; their rows are summed like tokens."""
    return torch.stack([sum_over_tokens(weight[None], torch.square)[0] for weight in readers]).double().sum(dim=0)
