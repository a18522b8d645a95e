"""What in a block mixes tokens, of families whose text can be split over processes (context parallelism).

Everything else in their blocks computes each token by itself. A family is listed once both kinds of its mixers are
tested on parts against whole sequences.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from minitron.errors import MinitronError


@dataclass(frozen=True, slots=True)
class TokenMixer:
    """A submodule that mixes tokens.

    Attributes:
        module: Its name inside the block.
        kind: How it mixes them: causal attention over all tokens, or Mamba-2's convolution and scan.
    """

    module: str
    kind: Literal["attention", "mamba2"]


# By model_type: letter of a block -> its mixer.
_MIXERS: Mapping[str, Mapping[str, TokenMixer]] = {
    "nemotron_h": {"M": TokenMixer("mixer", "mamba2"), "*": TokenMixer("mixer", "attention")},
    "llama": {"T": TokenMixer("self_attn", "attention")},
    "qwen3": {"T": TokenMixer("self_attn", "attention")},
}


def token_mixers(model_type: str) -> Mapping[str, TokenMixer]:
    """Letter of a block -> what mixes tokens in it.

    Raises:
        MinitronError: The family's text is not split.
    """
    found = _MIXERS.get(model_type)
    if found is None:
        raise MinitronError(
            f"context_parallel splits text for {', '.join(sorted(_MIXERS))}, not for {model_type}; set it to 1"
        )
    return found


def attention_letters(model_type: str) -> frozenset[str]:
    """Letters of blocks that have attention.

    Raises:
        MinitronError: The family's text is not split.
    """
    return frozenset(letter for letter, mixer in token_mixers(model_type).items() if mixer.kind == "attention")
