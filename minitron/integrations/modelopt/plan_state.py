"""A pruned model's plan in ModelOpt's state: kept until the state is written, and read back when it is restored."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TypedDict
from weakref import WeakKeyDictionary

import numpy as np
import torch
from modelopt.torch.opt.conversion import ModeloptStateManager
from torch import nn

from minitron.models.keep import Keep
from minitron.models.shape import HybridShape
from minitron.prune.plan import PrunePlan

MODE = "minitron"

# The plan of a model between its search and the moment at which ModelOpt writes the state down.
_plans: "WeakKeyDictionary[nn.Module, PrunePlan]" = WeakKeyDictionary()


class PlanState(TypedDict, total=False):
    """A plan as ModelOpt keeps it (`mto.modelopt_state`): plain values and tensors."""

    source: Mapping[str, int | str]
    target: Mapping[str, int | str]
    layers: list[int]
    indices: list[tuple[str, int | None, torch.Tensor]]


def remember_plan(model: nn.Module, plan: PrunePlan) -> None:
    """Keeps the plan that a model was pruned by until `take_plan_state`."""
    _plans[model] = plan


def take_plan_state(model: nn.Module) -> PlanState:
    """The state of the plan that the model was pruned by; empty when there is none. The plan is forgotten."""
    plan = _plans.pop(model, None)
    if plan is None:
        return {}
    return {
        "source": asdict(plan.source),
        "target": asdict(plan.target),
        "layers": list(plan.keep.layers),
        "indices": [
            (axis, layer, torch.from_numpy(np.ascontiguousarray(kept)))
            for (axis, layer), kept in plan.keep.indices.items()
        ],
    }


def plan_from_state(state: PlanState) -> PrunePlan:
    """The plan that a state holds."""
    indices = {(axis, layer): kept.numpy() for axis, layer, kept in state["indices"]}
    return PrunePlan(
        source=HybridShape(**state["source"]),  # type: ignore[arg-type]
        target=HybridShape(**state["target"]),  # type: ignore[arg-type]
        keep=Keep(layers=tuple(state["layers"]), indices=indices),
    )


def forget_plan(model: nn.Module) -> None:
    """Removes what an unfinished search left: the plan, and ModelOpt's state where this mode is alone in it."""
    _plans.pop(model, None)
    modes = [name for name, _ in ModeloptStateManager(model).state_dict()]
    if modes == [MODE]:  # a state with other modes is not ours; an unfinished search changes nothing when restored
        ModeloptStateManager.remove_state(model)
