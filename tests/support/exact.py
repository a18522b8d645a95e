"""Tiny models that compute wholly in fp64, so that laws hold to rounding errors of 1e-12 and not of 1e-6."""

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from minitron.checkpoints.names import read_place
from minitron.checkpoints.places import model_places
from minitron.models.shape import HybridShape
from minitron.prune.in_memory import prune_model
from minitron.prune.laws.tiny_model import exact_logits, randomize
from minitron.prune.plan import PrunePlan
from minitron.runtime.building import new_model
from tests.support.models import make_config

# Logits are of the order of 1; sums of a few hundred fp64 products differ by 1e-13 when they are reordered.
ROUNDING = {"rtol": 1e-9, "atol": 1e-10}


def exact_model(shape: HybridShape, *, seed: int = 0) -> PreTrainedModel:
    """A tiny model in fp64; rotary frequencies, which are made in fp32, follow their formula in fp64."""
    model = new_model(make_config(shape), seed=seed, dtype=torch.float64)
    randomize(model, seed=seed)
    return in_fp64(model)


def in_fp64(model: PreTrainedModel) -> PreTrainedModel:
    """The model with rotary frequencies that follow their formula in fp64, in place."""
    for module in model.modules():
        for name in [name for name, _ in module.named_buffers(recurse=False) if name.endswith("inv_freq")]:
            if "original" not in name:
                kind = name.removesuffix("inv_freq").removesuffix("_")
                setattr(module, name, _frequencies(model.config, kind, getattr(module, name)))
    return model


def _frequencies(config: Any, kind: str, found: torch.Tensor) -> torch.Tensor:
    """[channels / 2] frequencies of one kind of layer, or of all."""
    rotary = config.rope_parameters[kind] if kind else config.rope_parameters
    turned = int(config.head_dim * rotary.get("partial_rotary_factor", 1.0))
    exact: torch.Tensor = rotary["rope_theta"] ** -(torch.arange(0, turned, 2, dtype=torch.float64) / turned)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)
    return exact


logits_of = exact_logits


def pruned(model: PreTrainedModel, plan: PrunePlan) -> PreTrainedModel:
    """The model pruned in memory, computing in fp64."""
    return in_fp64(prune_model(model, plan))


def tensors_on_disk(model: PreTrainedModel, shape: HybridShape) -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor by the name that it has in files."""
    state = model.state_dict()
    return {name: read_place(state, place).numpy() for name, place in model_places(shape).items()}
