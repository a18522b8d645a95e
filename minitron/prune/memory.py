"""Pruning in memory: a smaller model out of a loaded one, with nothing written."""

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from minitron.hybrid.checkpoint import Checkpoint
from minitron.hybrid.config import config_for_shape
from minitron.hybrid.model import assemble_model
from minitron.hybrid.slicing import slice_tensors
from minitron.prune.plan import PrunePlan


def prune_model(model: PreTrainedModel, source: Checkpoint, plan: PrunePlan) -> PreTrainedModel:
    """The pruned model, in the loaded one's dtype and on its device, sharing no memory with it.

    Args:
        model: The source's checkpoint, loaded.
        source: The checkpoint, for its configuration.
        plan: What survives.

    Raises:
        ValueError: The plan is for another shape.
    """
    if plan.source != source.shape:
        raise ValueError(f"the plan must start from the model's shape {source.shape}, it starts from {plan.source}")
    family, state = source.shape.family, model.state_dict()

    def pruned() -> Iterator[tuple[str, torch.Tensor]]:
        def read(name: str) -> torch.Tensor:
            tensor: torch.Tensor = state[family.name_in_memory(name)]
            return tensor

        for name, tensor in slice_tensors(read, plan.source, plan.keep):
            yield family.name_in_memory(name), tensor.clone()

    return assemble_model(model, config_for_shape(source.config, plan.target), plan.target, dict(pruned()))
