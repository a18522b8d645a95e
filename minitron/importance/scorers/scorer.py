"""Protocol of width scorers: which activation of a block they use for an axis, its statistic, and the scores."""

from collections.abc import Sequence
from typing import Protocol

import torch

from minitron.importance.accumulators import sum_over_tokens
from minitron.models.shape import HybridShape
from minitron.runtime.hooks import Accumulator

# Axis of heads -> the size that says how many channels a head has.
HEAD_CHANNELS = {"num_attention_heads": "head_dim", "linear_num_value_heads": "linear_value_head_dim"}
# Axis that has scores -> the activation, as families name it, that most scorers use: what a projection reads.
ACTIVATIONS = {
    "hidden_size": "hidden",
    "intermediate_size": "ffn",
    "mamba": "mamba_output",
    "num_attention_heads": "attention_output",
    "linear_num_value_heads": "delta_output",
    "moe_shared_expert_intermediate_size": "shared_ffn",
}


class Scorer(Protocol):
    """One way to say how much each unit of an axis matters; larger means keep."""

    def activation(self, axis: str) -> str:
        """The family's name of the activation whose statistic is taken."""

    def accumulator(self, axis: str, shape: HybridShape) -> Accumulator:
        """A fresh running statistic for one block."""

    def score(
        self, axis: str, shape: HybridShape, accumulator: Accumulator, readers: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """fp64 scores of one block's units.

        `hidden_size` [D], `intermediate_size` [F], `num_attention_heads` and `linear_num_value_heads` [heads]; `mamba`
        [H, P], of which heads and channels take the L2, or [H, P, P], of which they take the sum (see
        `minitron.importance.selection`).

        Args:
            axis: Which units.
            shape: Shape of the model.
            accumulator: The activation's statistic over all samples.
            readers: The weights that multiply it, [out, C] each.
        """


def column_energy(readers: Sequence[torch.Tensor]) -> torch.Tensor:
    """fp64 [C]: squared norm of each column, over all weights that read it; their rows are summed like tokens."""
    return torch.stack([sum_over_tokens(weight[None], torch.square)[0] for weight in readers]).double().sum(dim=0)
