"""Pruning in memory: a smaller model out of a loaded one, with nothing written."""

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from minitron.hybrid.checkpoint import Checkpoint
from minitron.hybrid.config import config_for_shape
from minitron.hybrid.model import assemble_model
from minitron.hybrid.names import gather_state, model_places, read_place
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
    state, places = model.state_dict(), model_places(plan.source)

    def read(name: str) -> torch.Tensor:
        return read_place(state, places[name])

    def pruned() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in slice_tensors(read, plan.source, plan.keep, scales=plan.scales):
            yield name, tensor.clone()

    gathered = gather_state(pruned(), model_places(plan.target))
    return assemble_model(model, config_for_shape(source.config, plan.target), plan.target, gathered)
