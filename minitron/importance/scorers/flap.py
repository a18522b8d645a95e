"""The FLAP score: how much a channel fluctuates, times the weight that reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch

from minitron.importance.accumulators import TokenVariance
from minitron.importance.scorers.scorer import ACTIVATIONS, HEAD_CHANNELS, column_energy
from minitron.models.shape import HybridShape
from minitron.runtime.hooks import Accumulator


@dataclass(frozen=True, slots=True)
class FlapScorer:
    """||W_j||^2 * Var(X_j), the variance over all tokens; a head's score is the sum over its channels.

    Of Mamba heads the root is kept of each channel, [H, P], whose L2 norm over some channels is a head's score.

    Source: arXiv 2312.11983; compared with the published score for hybrids in 2504.11409.
    """

    def activation(self, axis: str) -> str:
        """The family's name of the activation whose statistic is taken."""
        return ACTIVATIONS[axis]

    def accumulator(self, axis: str, shape: HybridShape) -> Accumulator:
        """A fresh running statistic for one block."""
        return TokenVariance()

    def score(
        self, axis: str, shape: HybridShape, accumulator: Accumulator, readers: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """The score of each unit."""
        value_C = cast(TokenVariance, accumulator).value()
        score_C = value_C * column_energy(readers).to(value_C.device)
        if axis == "mamba":
            return score_C.reshape(shape.mamba_num_heads, shape.mamba_head_dim).sqrt()
        if axis in HEAD_CHANNELS:
            return score_C.reshape(-1, shape.sizes[HEAD_CHANNELS[axis]]).sum(dim=1)
        return score_C
