"""The mode "minitron" of NVIDIA ModelOpt: `mtp.prune(model, mode="minitron", ...)` on a plain Hugging Face model.

`import minitron.integrations.modelopt.mode` registers the mode. Only ModelOpt's mode and searcher interfaces are used
(0.47, modelopt/torch/opt/mode.py, modelopt/torch/opt/searcher.py).
"""

from collections.abc import Callable
from typing import cast

import modelopt.torch.prune as mtp
from modelopt.torch.nas.conversion import NASModeRegistry
from modelopt.torch.opt.config import ModeloptBaseConfig
from modelopt.torch.opt.mode import ModeDescriptor
from modelopt.torch.opt.searcher import BaseSearcher
from torch import nn
from transformers import PreTrainedModel

from minitron.integrations.modelopt.plan_state import MODE, PlanState, plan_from_state, take_plan_state
from minitron.integrations.modelopt.searcher import MinitronSearcher, model_shape
from minitron.prune.in_memory import prune_in_place


class MinitronConfig(ModeloptBaseConfig):  # type: ignore[misc]
    """The mode has no settings of its own: `mtp.prune` takes all of them in `config`."""


@NASModeRegistry.register_mode
@mtp.pruning.PruneModeRegistry.register_mode
class MinitronModeDescriptor(ModeDescriptor):  # type: ignore[misc]
    """Budget-first pruning of a hybrid Hugging Face model.

    The state that ModelOpt keeps (`mto.modelopt_state`, `mto.save`) holds the plan, so that restoring it on the
    original model cuts the same units.
    """

    @property
    def name(self) -> str:
        """The mode's name."""
        return MODE

    @property
    def config_class(self) -> type[ModeloptBaseConfig]:
        """The mode's own settings: none."""
        return MinitronConfig

    @property
    def export_mode(self) -> str:
        """The mode that ModelOpt enters when a search ends."""
        return "export_nas"

    @property
    def search_algorithm(self) -> type[BaseSearcher]:
        """What `mtp.prune` runs."""
        return MinitronSearcher

    @property
    def convert(self) -> Callable[..., tuple[nn.Module, PlanState]]:
        """Leaves the model as it is."""
        return _convert

    @property
    def restore(self) -> Callable[..., nn.Module]:
        """Prunes the original model by the plan in the state; a model of the pruned shape stays as it is."""
        return _restore

    @property
    def update_for_new_mode(self) -> Callable[..., None]:
        """Writes the plan of the search into the state."""
        return _write_plan


def _convert(model: nn.Module, config: ModeloptBaseConfig) -> tuple[nn.Module, PlanState]:
    model_shape(model)
    return model, {}


def _restore(model: nn.Module, config: ModeloptBaseConfig, metadata: PlanState) -> nn.Module:
    if metadata:
        plan = plan_from_state(metadata)
        if model_shape(model) != plan.target:
            prune_in_place(cast(PreTrainedModel, model), plan)
    return model


def _write_plan(model: nn.Module, config: ModeloptBaseConfig, metadata: PlanState) -> None:
    metadata.update(take_plan_state(model))
