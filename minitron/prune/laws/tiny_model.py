"""Tiny random models that compute wholly in fp64, so that laws hold to rounding and not to a tolerance."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from minitron.models.config import config_for_shape
from minitron.models.shape import HybridShape
from minitron.runtime.building import build_config, new_model

# Longest convolution chunk that a tiny sequence crosses.
SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
CHUNK_SIZES = {"chunk_size": 8, "mamba_chunk_size": 8}


def tiny_model(config: Mapping[str, Any], shape: HybridShape, *, seed: int) -> PreTrainedModel:
    """A random model in fp64 of a configuration's class and settings, with a tiny shape.

    Its weights are strong enough that every part of it moves the logits.

    Args:
        config: The `config.json`; what it says beside sizes is kept.
        shape: The sizes.
        seed: Fixes the weights.
    """
    chunks = {key: size for key, size in CHUNK_SIZES.items() if key in config}
    switches = {key: bool(shape.sizes[key]) for key in shape.family.switches}
    # Special tokens of the real vocabulary are beyond a tiny one.
    plain = {key: plain_positions(value) for key, value in config.items() if key in ("rope_parameters", "rope_scaling")}
    tiny = config_for_shape({**config, **chunks, **switches, **plain}, shape) | dict.fromkeys(SPECIAL_TOKENS)
    model = new_model(build_config(tiny, shape), seed=seed, dtype=torch.float64)
    randomize(model, seed=seed)
    return model


def plain_positions(rotary: Any) -> Any:
    """Rotary settings without the scaling of long contexts, whose factors are as many as the real head's channels."""
    if not isinstance(rotary, Mapping):
        return None
    if any(isinstance(value, Mapping) for value in rotary.values()):  # one for each kind of attention
        return {kind: plain_positions(value) for kind, value in rotary.items()}
    kept = {key: rotary[key] for key in ("rope_theta", "partial_rotary_factor") if key in rotary}
    return {"rope_type": "default", **kept}


def randomize(model: PreTrainedModel, *, seed: int) -> None:
    """Draws a model's weights, in place, so that none is at the neutral value that it starts from."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.copy_(torch.log(torch.linspace(0.02, 1, len(parameter))))
            elif name.endswith("dt_bias"):
                parameter.uniform_(-3, -1, generator=generator)
            elif name.endswith("conv1d.weight"):
                parameter.normal_(0, 0.5, generator=generator)
            elif parameter.ndim == 1 and ("norm" in name or name.endswith(".D")):
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif parameter.ndim >= 2:
                parameter.normal_(0, 0.12, generator=generator)
            else:
                parameter.normal_(0, 0.2, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.uniform_(0, 0.3, generator=generator)


class InDouble(TorchFunctionMode):
    """Turns every request for fp32, of which the modeling code has many, into one for fp64."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function with its wider arguments."""
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        wider = {name: _wider(value) for name, value in (kwargs or {}).items()}
        return func(*map(_wider, args), **wider)


def exact_logits(model: PreTrainedModel, ids_BT: torch.Tensor) -> torch.Tensor:
    """[B, T, V] logits, computed in fp64."""
    with torch.no_grad(), InDouble():
        logits: torch.Tensor = model(ids_BT, use_cache=False).logits
    assert logits.dtype == torch.float64
    return logits


def _wider(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
