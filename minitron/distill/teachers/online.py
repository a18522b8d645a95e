"""Teacher in memory: a forward pass beside the student's, whole in each process or sharded over them."""

# B sequences of a batch, T tokens a sequence, D hidden

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.distill.loss.objective import DenseTargets
from minitron.distill.sharding import shard_blocks
from minitron.runtime.backbone import blocks_of, last_hidden_states, output_head
from minitron.runtime.shards import read_weights


class OnlineTeacher:
    """A frozen model.

    Args:
        model: The teacher; it is put into evaluation mode and frozen, in place.
        sharded: Split its weights over all processes (FSDP2), in place.
        device: Where the shards lie.
        weights: The checkpoint that the shards of a model on torch's meta device are read from; None where it has
            its weights.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        sharded: bool = False,
        device: torch.device | None = None,
        weights: Checkpoint | None = None,
    ) -> None:
        self._device = device or model.device
        self._module = _LastHidden(model.eval().requires_grad_(False))
        if sharded:
            shard_blocks(self._module, blocks_of(model), device=self._device)
        if weights is not None:
            read_weights(model, weights, device=self._device)

    @property
    def model(self) -> PreTrainedModel:
        """The model."""
        return self._module.model

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Its blocks, for activation hooks."""
        return blocks_of(self._module.model)

    def targets(self, input_ids_BT: torch.Tensor, index_B: torch.Tensor) -> DenseTargets:
        """Last hidden states and the head."""
        with torch.no_grad():
            hidden_BTD = self._module(input_ids_BT.to(self._device))
        return DenseTargets(hidden_ND=hidden_BTD.flatten(0, 1), head_VD=output_head(self._module.model))


class _LastHidden(nn.Module):
    # What is sharded as one: its forward gathers embeddings and head, and leaves the head gathered for the loss.

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        return last_hidden_states(self.model, input_ids_BT)
