"""The parts of a loaded transformers model: backbone, blocks, embeddings, last hidden states, and the output head."""

# B samples, T tokens, D hidden, V vocabulary

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel


def backbone_of(model: PreTrainedModel) -> nn.Module:
    """The model without its head."""
    backbone: nn.Module = model.base_model
    return backbone


def blocks_of(model: PreTrainedModel) -> Sequence[nn.Module]:
    """The model's blocks in order."""
    blocks: Sequence[nn.Module] = model.base_model.layers
    return blocks


def embed(model: PreTrainedModel, input_ids_BT: torch.Tensor) -> torch.Tensor:
    """[B, T, D] residual stream before the first block."""
    hidden_BTD: torch.Tensor = model.get_input_embeddings()(input_ids_BT)
    return hidden_BTD


def last_hidden_states(model: PreTrainedModel, input_ids_BT: torch.Tensor) -> torch.Tensor:
    """[B, T, D] what the head reads."""
    hidden_BTD: torch.Tensor = model.base_model(input_ids_BT, use_cache=False).last_hidden_state
    return hidden_BTD


def output_head(model: PreTrainedModel) -> torch.Tensor:
    """[V, D] `lm_head.weight`."""
    weight_VD: torch.Tensor = model.get_output_embeddings().weight
    return weight_VD


def run_blocks(
    model: PreTrainedModel,
    blocks: Sequence[nn.Module],
    hidden_BTD: torch.Tensor,
    mask_BT: torch.Tensor | None,
    *,
    norm_name: str,
) -> torch.Tensor:
    """[B, T, D] residual stream after some blocks, run by the backbone's own forward, without the final norm.

    Args:
        model: The model, which is as it was when the call returns.
        blocks: What takes the place of its blocks.
        hidden_BTD: The residual stream before them.
        mask_BT: Which tokens are no padding; all when None.
        norm_name: Name of the final norm inside the backbone.
    """
    backbone = backbone_of(model)
    layers, norm = backbone.get_submodule("layers"), backbone.get_submodule(norm_name)
    backbone.layers = nn.ModuleList(blocks)
    setattr(backbone, norm_name, nn.Identity())
    try:
        after_BTD: torch.Tensor = backbone(
            inputs_embeds=hidden_BTD, attention_mask=None if mask_BT is None else mask_BT.long(), use_cache=False
        ).last_hidden_state
    finally:
        backbone.layers = layers
        setattr(backbone, norm_name, norm)
    return after_BTD
