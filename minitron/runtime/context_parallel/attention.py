"""Causal attention on a part of a sequence: keys and values of all parts are gathered, queries stay where they are."""

# B sequences, T tokens of a part, S tokens of all parts up to this one's last, H key heads, P head dim

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right

from minitron.errors import MinitronError
from minitron.runtime.context_parallel.collectives import gather_tokens
from minitron.runtime.context_parallel.part import TextPart


def attention_forward(mixer: Any, part: TextPart, own_forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the mixer's own forward gives, whose keys and values are those of this and all earlier tokens.

    Keys and values take the way that modeling code has for those of a cache, after rotary positions are in them.

    Args:
        mixer: transformers' attention.
        part: The part.
        own_forward: The mixer's forward.
        args: What the block gives it.
        kwargs: What the block gives it by name.
    """
    hidden_states = args[0] if args else kwargs["hidden_states"]
    theirs = {"past_key_values": EarlierTokens(part), "attention_mask": causal_mask(mixer, part, hidden_states)}
    return own_forward(*args, **{**kwargs, **theirs})


class EarlierTokens:
    """Stands where a cache of keys and values would, and adds those of all earlier parts.

    Args:
        part: The part whose keys and values it is given.
    """

    def __init__(self, part: TextPart) -> None:
        self._part = part

    def update(
        self, key_BHTP: torch.Tensor, value_BHTP: torch.Tensor, layer: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, H, S, P] keys and values up to this part's last token."""
        both_TBHP = torch.stack([key_BHTP, value_BHTP]).movedim(3, 0)
        both_SBHP = gather_tokens(both_TBHP, self._part)[: self._part.stop]
        key_BHSP, value_BHSP = both_SBHP.movedim(0, 3)
        return key_BHSP, value_BHSP


def causal_mask(mixer: Any, part: TextPart, x: torch.Tensor) -> torch.Tensor:
    """[T, S] the mask that lets each token see itself and all before it, as the mixer's implementation reads it.

    Raises:
        MinitronError: The model computes attention by another implementation than transformers' sdpa and eager.
    """
    implementation = mixer.config._attn_implementation
    if implementation == "sdpa":  # for fused kernels it is no matrix
        return causal_lower_right(part.tokens, part.stop)
    if implementation != "eager":
        raise MinitronError(
            f"context_parallel takes attention by sdpa or eager, this model computes it by {implementation}"
        )
    seen_TS = torch.ones(part.tokens, part.stop, dtype=torch.bool, device=x.device).tril(part.start)
    return torch.zeros_like(seen_TS, dtype=x.dtype).masked_fill(~seen_TS, torch.finfo(x.dtype).min)[None, None]
