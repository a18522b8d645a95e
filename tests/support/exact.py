"""Tiny models that compute wholly in fp64, so that laws hold to rounding errors of 1e-12 and not of 1e-6."""

from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from minitron.checkpoints.names import model_places, read_place
from minitron.models.shape import HybridShape
from minitron.prune.in_memory import prune_model
from minitron.prune.plan import PrunePlan
from tests.support.models import make_tiny_model

# Logits are of the order of 1; sums of a few hundred fp64 products differ by 1e-13 when they are reordered.
ROUNDING = {"rtol": 1e-9, "atol": 1e-10}


class InDouble(TorchFunctionMode):
    """Turns every request for fp32, of which the modeling code has many, into one for fp64."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        wider = {name: _wider(value) for name, value in (kwargs or {}).items()}
        return func(*map(_wider, args), **wider)


def _wider(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def exact_model(shape: HybridShape, *, seed: int = 0) -> PreTrainedModel:
    """A tiny model in fp64; rotary frequencies, which are made in fp32, follow their formula in fp64."""
    return in_fp64(make_tiny_model(shape, seed=seed))


def in_fp64(model: PreTrainedModel) -> PreTrainedModel:
    model = model.double()
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            theta = model.config.rope_parameters["rope_theta"]
            exact = theta ** -(torch.arange(0, model.config.head_dim, 2, dtype=torch.float64) / model.config.head_dim)
            torch.testing.assert_close(module.inv_freq, exact, rtol=1e-6, atol=0)
            module.inv_freq = exact
    return model


def logits_of(model: PreTrainedModel, ids_BT: torch.Tensor) -> torch.Tensor:
    """[B, T, V] logits, computed in fp64."""
    with torch.no_grad(), InDouble():
        logits: torch.Tensor = model(ids_BT, use_cache=False).logits
    assert logits.dtype == torch.float64
    return logits


def pruned(model: PreTrainedModel, plan: PrunePlan) -> PreTrainedModel:
    """The model pruned in memory, computing in fp64."""
    return in_fp64(prune_model(model, plan))


def tensors_on_disk(model: PreTrainedModel, shape: HybridShape) -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor by the name that it has in files."""
    state = model.state_dict()
    return {name: read_place(state, place).numpy() for name, place in model_places(shape).items()}
