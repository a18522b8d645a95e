"""The published score: how large a unit's activations are, aggregated over tokens and then over samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch

from minitron.importance.accumulators import SampleAggregate
from minitron.importance.scorers.scorer import ACTIVATIONS, HEAD_CHANNELS
from minitron.importance.settings import Aggregation
from minitron.models.shape import HybridShape
from minitron.runtime.hooks import Accumulator


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationScorer:
    """Activation magnitude.

    Source: arXiv 2407.14679 (FFN neurons, hidden channels, attention heads) and 2504.11409 (Mamba heads and channels,
    at the x part of in_proj's output, before the convolution).

    Attributes:
        sequence: Aggregation over the tokens of a sample.
        batch: Aggregation over samples.
        ffn_preactivation: Use FFN activations before the nonlinearity, the older variant, in place of after it.
    """

    sequence: Aggregation = "mean_abs"
    batch: Aggregation = "l2"
    ffn_preactivation: bool = False

    def activation(self, axis: str) -> str:
        """The family's name of the activation whose statistic is taken."""
        if axis == "mamba":
            return "mamba_x"
        if axis == "intermediate_size" and self.ffn_preactivation:
            return "ffn_preactivation"
        return ACTIVATIONS[axis]

    def accumulator(self, axis: str, shape: HybridShape) -> Accumulator:
        """A fresh running statistic for one block."""
        return SampleAggregate(self.sequence, self.batch)

    def score(
        self, axis: str, shape: HybridShape, accumulator: Accumulator, readers: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """The statistic of each unit; a head of attention or DeltaNet takes the L2 over its channels."""
        value_C = cast(SampleAggregate, accumulator).value()
        if axis == "mamba":
            return value_C.reshape(shape.mamba_num_heads, shape.mamba_head_dim)
        if axis in HEAD_CHANNELS:
            return value_C.reshape(-1, shape.sizes[HEAD_CHANNELS[axis]]).square().sum(dim=1).sqrt()
        return value_C
