"""The parts of a loaded transformers model: backbone, blocks, embeddings, last hidden states, and the output head."""

# B samples, T tokens, D hidden, V vocabulary

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.models.families import FAMILIES, Family

Block = tuple[int, nn.Module]


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
    return _multiplied(model, model.get_input_embeddings()(input_ids_BT))


def embed_rows(model: PreTrainedModel, rows_BTD: torch.Tensor) -> torch.Tensor:
    """[B, T, D] residual stream before the first block, from rows of the stored table."""
    scale = getattr(model.get_input_embeddings(), "embed_scale", None)
    return _multiplied(model, rows_BTD if scale is None else rows_BTD * scale.to(rows_BTD))


def last_hidden_states(model: PreTrainedModel, input_ids_BT: torch.Tensor) -> torch.Tensor:
    """[B, T, D] what the head's product gives logits of: the final norm's output, over what logits are divided by."""
    hidden_BTD: torch.Tensor = model.base_model(input_ids_BT, use_cache=False).last_hidden_state
    return divided_for_logits(model, hidden_BTD)


def divided_for_logits(model: PreTrainedModel, normed_BTD: torch.Tensor) -> torch.Tensor:
    """[B, T, D] the final norm's output over what the model divides its logits by."""
    key = family_of(model).logits_divisor
    return normed_BTD if key is None else normed_BTD / getattr(model.config, key)


def family_of(model: PreTrainedModel) -> Family:
    """The declarations of a loaded model's family."""
    return FAMILIES[model.config.model_type]


def output_head(model: PreTrainedModel) -> torch.Tensor:
    """[V, D] `lm_head.weight`."""
    weight_VD: torch.Tensor = model.get_output_embeddings().weight
    return weight_VD


def run_blocks(
    model: PreTrainedModel,
    blocks: Sequence[Block],
    hidden_BTD: torch.Tensor,
    mask_BT: torch.Tensor | None,
    *,
    norm_name: str,
) -> torch.Tensor:
    """[B, T, D] residual stream after some blocks, run by the backbone's own forward, without the final norm.

    Args:
        model: The model, which is as it was when the call returns.
        blocks: What takes the place of its blocks, each with the number of the block whose place it is in.
        hidden_BTD: The residual stream before them.
        mask_BT: Which tokens are no padding; all when None.
        norm_name: Name of the final norm inside the backbone.
    """
    backbone, family = backbone_of(model), family_of(model)
    swapped: list[tuple[Any, str, Any]] = [
        (backbone, "layers", nn.ModuleList(block for _, block in blocks)),
        (backbone, norm_name, nn.Identity()),
    ]
    if family.embedding_multiplier is not None:
        swapped.append((backbone, family.embedding_multiplier, 1.0))
    # The forward pass looks up, by its count of blocks, which mask and positions a block needs.
    swapped += [(model.config, *entry) for entry in _lists_of(model, [layer for layer, _ in blocks])]
    with _swapped(swapped):
        after_BTD: torch.Tensor = backbone(
            inputs_embeds=hidden_BTD, attention_mask=None if mask_BT is None else mask_BT.long(), use_cache=False
        ).last_hidden_state
    return after_BTD


def _multiplied(model: PreTrainedModel, embedded_BTD: torch.Tensor) -> torch.Tensor:
    name = family_of(model).embedding_multiplier
    return embedded_BTD if name is None else embedded_BTD * getattr(backbone_of(model), name)


def _lists_of(model: PreTrainedModel, layers: Sequence[int]) -> Iterator[tuple[str, Any]]:
    """The configuration's lists of blocks, for some of the blocks."""
    for each in family_of(model).pattern.lists:
        value = getattr(model.config, each.key, None)
        if isinstance(value, list | tuple):
            inside = set(value)
            by_index = each.form == "indices"
            yield (
                each.key,
                [at for at, layer in enumerate(layers) if layer in inside]
                if by_index
                else [value[layer] for layer in layers],
            )


@contextmanager
def _swapped(values: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Attributes that have other values inside the `with`."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in values]
    try:
        for owner, name, value in values:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
