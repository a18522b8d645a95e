"""Models that compute on a part of every sequence, by the forward passes of those blocks that mix tokens."""

# B sequences, T tokens of a part

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.models.config import shape_from_config
from minitron.models.families.token_mixers import token_mixers
from minitron.models.shape import HybridShape
from minitron.runtime.backbone import backbone_of, blocks_of
from minitron.runtime.building import config_of
from minitron.runtime.context_parallel.attention import attention_forward
from minitron.runtime.context_parallel.mamba2 import mamba2_forward
from minitron.runtime.context_parallel.part import TextPart


def tokens_read_before(model: PreTrainedModel) -> int:
    """Tokens of the previous part that a block of a model reads at once: a part must be as long.

    Raises:
        MinitronError: The model's family does not split text.
    """
    shape = shape_from_config(config_of(model))
    token_mixers(shape.model_type)
    return max(0, shape.conv_kernel - 1)


@contextmanager
def on_part(model: PreTrainedModel, part: TextPart) -> Iterator[None]:
    """Inside the `with`, backward passes included, the model computes on a part of each sequence.

    Its backbone takes the part's token ids, and gives hidden states that are those of the whole sequences at the
    part's places. All processes of the part's group must call it alike.

    Raises:
        MinitronError: The model's family does not split text.
    """
    shape = shape_from_config(config_of(model))
    backbone = backbone_of(model)
    with ExitStack() as stack:
        stack.enter_context(_replaced(backbone, partial(_at_its_places, backbone.forward, part)))
        for mixer, kind in _mixers(model, shape):
            own = mixer.forward
            replacement = (
                partial(mamba2_forward, mixer, part)
                if kind == "mamba2"
                else partial(attention_forward, mixer, part, own)
            )
            stack.enter_context(_replaced(mixer, replacement))
        yield


def _mixers(model: PreTrainedModel, shape: HybridShape) -> Iterator[tuple[nn.Module, str]]:
    mixers = token_mixers(shape.model_type)
    for block, letter in zip(blocks_of(model), shape.hybrid_override_pattern, strict=True):
        if letter in mixers:
            yield block.get_submodule(mixers[letter].module), mixers[letter].kind


def _at_its_places(own_forward: Any, part: TextPart, *args: Any, **kwargs: Any) -> Any:
    input_ids_BT: torch.Tensor = args[0] if args else kwargs["input_ids"]
    assert input_ids_BT.shape[1] == part.tokens
    places_T = torch.arange(part.start, part.stop, device=input_ids_BT.device)
    return own_forward(*args, **{**kwargs, "position_ids": places_T[None]})


@contextmanager
def _replaced(module: nn.Module, forward: Any) -> Iterator[None]:
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
