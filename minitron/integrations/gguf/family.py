"""What the GGUF files of a model family hold: architecture, metadata, and a rule for each tensor."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from minitron.artifacts.json_files import JsonValue
from minitron.errors import MinitronError
from minitron.models.shape import HybridShape

Fp32 = npt.NDArray[np.float32]
Config = Mapping[str, JsonValue]
# What a key of the metadata holds; numbers are written as uint32, in lists as int32, and as float32.
Value = str | bool | int | float | list[int] | list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What becomes of a tensor.

    Attributes:
        name: Its name in the file; inside a block without the block's prefix.
        second: Where its rows are two tensors in the file, one after the other: the name of the second.
        shape: How the same numbers are dimensioned: `squeezed` without a middle dim of 1, as a `column`, or in `groups`
            of the Mamba mixer; as they are when None.
        values: What is done to them: `minus_exp`, or `paired`, the rows of each attention head reordered from the
            halves that transformers rotates to the pairs that llama.cpp does; nothing when None.
        fp32: llama.cpp computes with it in fp32 alone.
    """

    name: str
    second: str | None = None
    shape: Literal["squeezed", "column", "groups"] | None = None
    values: Literal["minus_exp", "paired"] | None = None
    fp32: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFamily:
    """A model family in GGUF files.

    Attributes:
        architecture: llama.cpp's name of a model's architecture.
        keys: Its metadata, named without the architecture's prefix.
        rules: Tensor outside the blocks, or name inside a block -> its rule.
        rules_without_experts: The rules that are others in a model without routed experts.
        only_values: Configuration key -> the values that llama.cpp computes with, the one of a key that is left out
            first.
        rotated: How many of a head's channels rotary positions turn.
        rope_factors: Divisors [head_dim / 2] of the rotary frequencies, where a model has a table of them.
    """

    architecture: Callable[[HybridShape], str]
    keys: Callable[[HybridShape, Config], dict[str, Value]]
    rules: Mapping[str, Rule]
    rules_without_experts: Mapping[str, Rule] = field(default_factory=dict)
    only_values: Mapping[str, tuple[JsonValue, ...]] = field(default_factory=dict)
    rotated: Callable[[HybridShape, Config], int] = lambda shape, config: shape.head_dim
    rope_factors: Callable[[HybridShape, Config], Fp32 | None] = lambda shape, config: None

    def rule(self, name: str, shape: HybridShape) -> Rule:
        """The rule of a tensor, by its name outside or inside the blocks."""
        found = None if shape.n_routed_experts else self.rules_without_experts.get(name)
        return found or self.rules[name]


def read_number(config: Config, key: str, default: float) -> float:
    """A number of a configuration, or what transformers takes where it is left out.

    Raises:
        MinitronError: It is something else than a number.
    """
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MinitronError(f"{key} in config.json must be a number, got {value!r}")
    return value


def check_values(family: GgufFamily, config: Config) -> None:
    """Refuses a configuration that llama.cpp would compute otherwise.

    Raises:
        MinitronError: A value is one that it does not know.
    """
    for key, known in family.only_values.items():
        value = config.get(key)
        if value is not None and value not in known:
            listed = " or ".join(json.dumps(one) for one in known)
            raise MinitronError(
                f"{key} in config.json must be {listed} for llama.cpp, got {json.dumps(value)}: there is no key of a "
                "GGUF file for it"
            )
