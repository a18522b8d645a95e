"""Pruning in memory: a smaller model out of a loaded one, with nothing written."""

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.checkpoints.names import gather_state, read_place
from minitron.checkpoints.places import model_places
from minitron.errors import MinitronError
from minitron.models.config import config_for_shape, shape_from_config
from minitron.models.slicing import slice_tensors
from minitron.prune.plan import PrunePlan
from minitron.runtime.backbone import blocks_of
from minitron.runtime.building import assemble_model, config_of


def prune_model(model: PreTrainedModel, plan: PrunePlan) -> PreTrainedModel:
    """The pruned model, in the loaded one's dtypes and on its device, sharing no memory with it.

    Args:
        model: The model, loaded.
        plan: What survives.

    Raises:
        MinitronError: The plan is for another shape.
    """
    config = config_of(model)
    found = shape_from_config(config)
    if plan.source != found:
        raise MinitronError(f"the plan must start from the model's shape {found}, it starts from {plan.source}")
    state, places = model.state_dict(), model_places(plan.source)

    def read(name: str) -> torch.Tensor:
        return read_place(state, places[name])

    def pruned() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in slice_tensors(read, plan.source, plan.keep, scales=plan.scales):
            yield name, tensor.clone()

    gathered = gather_state(pruned(), model_places(plan.target))
    return assemble_model(model, config_for_shape(config, plan.target), plan.target, gathered)


def prune_in_place(model: PreTrainedModel, plan: PrunePlan) -> None:
    """Makes a loaded model the pruned one: the same object, with new submodules and a new configuration.

    The new submodules take over the limits on the Mamba time step that the old ones had, and the mode (training or
    evaluation) of the model. Hooks on old submodules, and what was frozen, are not carried over: all
    parameters are new.

    Raises:
        MinitronError: The plan is for another shape; the model is as it was.
    """
    pruned = prune_model(model, plan)
    before, after = blocks_of(model), blocks_of(pruned)
    for position, layer in enumerate(plan.keep.layers):
        _carry_limits(before[layer], after[position])
    old_config, config = model.config, pruned.config
    config.architectures = old_config.architectures or [type(model).__name__]
    config.name_or_path = old_config.name_or_path
    config.dtype = model.dtype  # as a loaded model has it; a file gives its name, which ModelOpt's export cannot use
    for name, child in pruned.named_children():
        setattr(model, name, child)
    model.config = config
    model.train(model.training)


def _carry_limits(before: nn.Module, after: nn.Module) -> None:
    for name, module in before.named_modules():
        if hasattr(module, "time_step_limit"):
            after.get_submodule(name).time_step_limit = module.time_step_limit
