"""The parts of a loaded causal model: its blocks, last hidden states and head; and how training runs them."""

# B blocks of text, T tokens, D hidden, V vocabulary

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def blocks_of(model: PreTrainedModel) -> Sequence[nn.Module]:
    """The model's blocks in order."""
    backbone: Any = model.base_model
    blocks: Sequence[nn.Module] = backbone.layers
    return blocks


def last_hidden_states(model: PreTrainedModel, input_ids_BT: torch.Tensor) -> torch.Tensor:
    """[B, T, D] what the head reads."""
    backbone: Any = model.base_model
    hidden_BTD: torch.Tensor = backbone(input_ids_BT, use_cache=False).last_hidden_state
    return hidden_BTD


def output_head(model: PreTrainedModel) -> torch.Tensor:
    """[V, D] `lm_head.weight`."""
    head: Any = model.get_output_embeddings()
    weight_VD: torch.Tensor = head.weight
    return weight_VD


def autocast_without_copies(device: torch.device) -> AbstractContextManager[Any]:
    """Inside autocast: the same, but narrow copies of weights are dropped as soon as they are used.

    Autocast keeps them until the forward pass ends, 2 bytes a parameter, for weights that are used again. Those of a
    block are used once, and a block that is recomputed makes its copies anew.
    """
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.get_autocast_dtype(device.type), cache_enabled=False)


@contextmanager
def listening(blocks: Sequence[nn.Module], layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Gives a mapping that a forward pass inside fills: layer -> [B, T, D] residual stream behind it."""
    heard: dict[int, torch.Tensor] = {}

    def hook(layer: int) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            heard[layer] = output[0] if isinstance(output, tuple) else output

        return keep

    handles = [blocks[layer].register_forward_hook(hook(layer)) for layer in layers]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
