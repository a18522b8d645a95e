"""Rules that a serving engine (a reader) has about a model's shape; each holds for one shape or for a grid of them.

A rule takes sizes as numbers or as arrays, so that a search leaves out what a reader would refuse. What readers demand
of the keys of `config.json` is in `minitron.integrations.readers`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from minitron.estimate.serving.reader_names import ReaderName
from minitron.models.shape import HybridShape

Counts = Mapping[str, int]
# Sizes by name, numbers or arrays that broadcast; a rule gives a truth, or an array of them.
Sizes = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Who serves a model, and how.

    Attributes:
        readers: The readers that must take it; none sets no limit.
        tensor_parallel: GPUs that every matrix is split over.
        config_keys: The keys that its `config.json` has.
    """

    readers: tuple[ReaderName, ...] = ()
    tensor_parallel: int = 1
    config_keys: frozenset[str] = field(default=frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRule:
    """A rule about a shape.

    Attributes:
        key: The key of `config.json` that it is about; `tensor_parallel` where it is about the number of GPUs alone.
        kinds: Letters of blocks: a shape without any of them is not asked. Empty for every shape.
        families: The `model_type`s that are asked; None for every one.
        holds: (counts of the kinds of block, sizes, serving) -> whether it holds.
        states: (sizes, serving) -> the rule in words that follow "must".
        mend: Sizes -> what helps beside another size and another number of GPUs; None where nothing does.
        source: Where the reader says so.
    """

    key: str
    kinds: str = ""
    families: tuple[str, ...] | None = None
    holds: Callable[[Counts, Sizes, Serving], Any]
    states: Callable[[Mapping[str, int], Serving], str]
    mend: Callable[[Mapping[str, int]], str] | None = None
    source: str

    def met(self, model_type: str, counts: Counts, sizes: Sizes, serving: Serving) -> Any:
        """Whether shapes of a family with these counts of blocks keep to the rule: one truth, or an array of them."""
        is_asked = not self.kinds or any(counts.get(kind) for kind in self.kinds)
        is_asked = is_asked and (self.families is None or model_type in self.families)
        return self.holds(counts, sizes, serving) if is_asked else True

    def found(self, shape: HybridShape, serving: Serving) -> int | str:
        """What a shape has in the key's place."""
        if self.key == "tensor_parallel":
            return serving.tensor_parallel
        if self.key == "model_type":
            return shape.model_type
        return shape.sizes.get(self.key, shape.hybrid_override_pattern)


def splits_evenly(key: str, kinds: str, source: str) -> ShapeRule:
    """A size must be a multiple of the number of GPUs."""
    return _splits(key, kinds, source, holds=lambda size, gpus: size % gpus == 0)


def splits_or_repeats(key: str, kinds: str, source: str) -> ShapeRule:
    """A size must be a multiple of the number of GPUs, or divide it, so that several GPUs hold the same one."""
    return _splits(
        key, kinds, source, holds=lambda size, gpus: (size % gpus == 0) | (gpus % size == 0), words=", or divide it"
    )


def splits_unless_one(key: str, kinds: str, source: str) -> ShapeRule:
    """A size must be a multiple of the number of GPUs, or 1, which every GPU repeats."""
    return _splits(key, kinds, source, holds=lambda size, gpus: (size % gpus == 0) | (size == 1), words=", or 1")


def splits_once_padded(key: str, multiple: int, source: str) -> ShapeRule:
    """A size must be a multiple of the number of GPUs once it is padded to a multiple."""
    return _splits(
        key,
        "",
        source,
        holds=lambda size, gpus: -(-size // multiple) * multiple % gpus == 0,
        words=f" once padded to one of {multiple}",
    )


def _splits(key: str, kinds: str, source: str, *, holds: Callable[[Any, int], Any], words: str = "") -> ShapeRule:
    """A rule about (size, number of GPUs); the words say what is taken beside a multiple."""
    return ShapeRule(
        key=key,
        kinds=kinds,
        # A size that the family does not have, or the model has no use for, splits over any number.
        holds=lambda _, sizes, serving: holds(sizes.get(key, 0), serving.tensor_parallel),
        states=lambda _, serving: f"be a multiple of tensor_parallel={serving.tensor_parallel}{words}",
        source=source,
    )


def gpus_among(numbers: tuple[int, ...], kinds: str, source: str) -> ShapeRule:
    """The number of GPUs must be one of some."""
    return ShapeRule(
        key="tensor_parallel",
        kinds=kinds,
        holds=lambda _, __, serving: serving.tensor_parallel in numbers,
        states=lambda _, __: f"be {' or '.join(map(str, numbers))}",
        source=source,
    )


def multiple_of(key: str, multiple: int, kinds: str, source: str, *, where: str = "") -> ShapeRule:
    """A size must be a multiple of a number, or where the reader runs in some way."""
    return ShapeRule(
        key=key,
        kinds=kinds,
        holds=lambda _, sizes, __: sizes[key] % multiple == 0,
        states=lambda _, __: f"be a multiple of {multiple}{where}",
        source=source,
    )


def inner_multiple(multiple: int, source: str) -> ShapeRule:
    """Channels of all Mamba heads, for a converter that looks for `mamba_d_head` alone."""
    return ShapeRule(
        key="mamba_num_heads",
        kinds="M",
        holds=lambda _, sizes, serving: (
            (sizes["mamba_num_heads"] * sizes["mamba_head_dim"] % multiple == 0)
            | ("mamba_d_head" in serving.config_keys)
        ),
        states=lambda sizes, _: (
            f"make a multiple of {multiple} with mamba_head_dim={sizes['mamba_head_dim']} where "
            "there is no mamba_d_head"
        ),
        mend=lambda sizes: f'write "mamba_d_head": {sizes["mamba_head_dim"]}',
        source=source,
    )


def has_blocks(kinds: str, words: str, source: str) -> ShapeRule:
    """A hybrid must have a block of each of some kinds."""
    return ShapeRule(
        key="hybrid_override_pattern",
        families=("nemotron_h",),
        holds=lambda counts, _, __: all(counts.get(kind) for kind in kinds),
        states=lambda _, __: f"have {words}",
        source=source,
    )


def lacks_blocks(kinds: str, words: str, source: str) -> ShapeRule:
    """A hybrid must not have blocks of all of some kinds."""
    return ShapeRule(
        key="hybrid_override_pattern",
        families=("nemotron_h",),
        holds=lambda counts, _, __: not all(counts.get(kind) for kind in kinds),
        states=lambda _, __: f"have no {words}",
        source=source,
    )
