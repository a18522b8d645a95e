"""Output energy: the mean square of what a unit adds to the block's output."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch

from minitron.importance.accumulators import TokenSecondMoment
from minitron.importance.scorers.scorer import ACTIVATIONS, HEAD_CHANNELS, column_energy
from minitron.models.shape import HybridShape
from minitron.runtime.hooks import Accumulator


@dataclass(frozen=True, slots=True)
class OutputEnergyScorer:
    """tr(W_u C_uu W_u^T), with C the second moment over all tokens of what the projection W reads from unit u.

    It is exactly the mean square error that zeroing the unit alone makes at the projection's output. For an FFN neuron
    it is E[a_j^2] * ||w_j||^2. For a Mamba head, C is the P x P block of the input of `out_proj`, after the gated norm;
    the matrix C * (W^T W) is kept (elementwise product), so that the energy of any set of its channels is the sum of
    a submatrix.
    """

    def activation(self, axis: str) -> str:
        """The family's name of the activation whose statistic is taken."""
        return ACTIVATIONS[axis]

    def accumulator(self, axis: str, shape: HybridShape) -> Accumulator:
        """A fresh running statistic for one block."""
        channels = {"mamba": "mamba_head_dim", **HEAD_CHANNELS}
        return TokenSecondMoment(shape.sizes[channels[axis]] if axis in channels else 1)

    def score(
        self, axis: str, shape: HybridShape, accumulator: Accumulator, readers: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """The energy of each unit, a matrix for each Mamba head."""
        moment = cast(TokenSecondMoment, accumulator).value()
        if moment.ndim == 1:
            return moment * column_energy(readers).to(moment.device)
        (weight_DC,) = readers
        weight_UPD = weight_DC.float().reshape(-1, *moment.shape[:2]).permute(1, 2, 0)
        energy_UPP = moment * (weight_UPD @ weight_UPD.transpose(1, 2)).double()
        return energy_UPP if axis == "mamba" else torch.sum(energy_UPP, dim=(1, 2))
