"""HybridShape: the block pattern and dims of a hybrid model, and the exact sizes that follow from them."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from minitron.errors import ShapeError
from minitron.models.axes import Axis, TensorSpec, entry_names, part_size, tensor_shape
from minitron.models.bounds import check_blocks, check_params, check_size, check_stacked
from minitron.models.families import FAMILIES
from minitron.models.families.family import Family

NOT_SIZES = ("hybrid_override_pattern", "model_type", "block_widths")
# The axis whose size may differ block by block.
FFN_AXIS = "intermediate_size"


@dataclass(frozen=True, kw_only=True)
class HybridShape:
    """Shape of a model: the single source of truth for parameters and bytes.

    `hybrid_override_pattern` has one letter a block, of those that the family declares: M Mamba-2, - MLP, * attention,
    E experts; and layers of two parts: T attention, S attention in a sliding window, N attention without positions,
    H Mamba-2 and G gated DeltaNet, each with an MLP (or experts), X attention with experts where T has an MLP.
    All dims are spelt as in the Hugging Face configuration; one that the family or the pattern has no use for is 0.

    Where FFN widths differ by block, `block_widths` has that of each block with an FFN and `intermediate_size` their
    mean, a whole number: parameters, bytes and operations are linear in it, so all counts by kinds of block are exact.

    Raises:
        ShapeError: A dim is not positive or beyond bounds, a letter is unknown, heads do not divide evenly into groups,
            there are fewer experts than routing needs, or block widths are not of the blocks or of the mean.
    """

    hybrid_override_pattern: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int = 0
    num_attention_heads: int = 0
    num_key_value_heads: int = 0
    head_dim: int = 0
    mamba_num_heads: int = 0
    mamba_head_dim: int = 0
    n_groups: int = 0
    ssm_state_size: int = 0
    conv_kernel: int = 4
    n_routed_experts: int = 0
    num_experts_per_tok: int = 0
    n_group: int = 0
    topk_group: int = 0
    moe_intermediate_size: int = 0
    moe_shared_expert_intermediate_size: int = 0
    moe_latent_size: int = 0
    linear_num_key_heads: int = 0
    linear_num_value_heads: int = 0
    linear_key_head_dim: int = 0
    linear_value_head_dim: int = 0
    linear_conv_kernel_dim: int = 0
    sliding_window: int = 0
    tie_word_embeddings: int = 0
    block_widths: tuple[int, ...] = ()
    model_type: str = "nemotron_h"

    def __post_init__(self) -> None:
        if self.model_type not in FAMILIES:
            raise ShapeError(f"model_type must be one of {', '.join(FAMILIES)}, got {self.model_type!r}")
        known = self.family.block_kinds
        unknown = sorted(set(self.hybrid_override_pattern) - set(known))
        if unknown or not self.hybrid_override_pattern:
            raise ShapeError(
                f"a block pattern must be made of {' '.join(known)}, got {self.hybrid_override_pattern!r}"
                + (f" with {' '.join(unknown)}" if unknown else "")
            )
        check_blocks(self.num_hidden_layers)
        self._forget_unused()
        self._settle_widths()
        needed = self._needed()
        for name, size in self.sizes.items():
            check_size(name, size, least=1 if name in needed else 0)
        check_stacked(self.sizes, self.num_hidden_layers)
        check_params(self.params)
        for rule in self.family.multiples:
            name, unit = " x ".join(rule.sizes), " x ".join(rule.of)
            _check_multiple(name, part_size(rule.sizes, self.sizes), unit, max(1, part_size(rule.of, self.sizes)))
        for axis in self.family.axes.values():
            size = self.sizes[axis.name]
            if axis.grouped_by is not None and axis.name in needed:
                _check_multiple(axis.name, size, axis.grouped_by, self.sizes[axis.grouped_by])
            if axis.at_least is not None and axis.name in needed and size < axis.at_least(self.sizes):
                used = "" if axis.used is None else f" for {axis.used}={self.sizes[axis.used]}"
                raise ShapeError(f"{axis.name} must be at least {axis.at_least(self.sizes)}{used}, got {size}")

    @property
    def family(self) -> Family:
        """The declarations of this model's family."""
        return FAMILIES[self.model_type]

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Size of each axis by its name."""
        return {key: getattr(self, key) for key in self.family.config_keys}

    def _forget_unused(self) -> None:
        # Sizes that say nothing of this model are 0, so that two spellings of one shape are equal.
        family = self.family
        unused = {each.name for each in dataclasses.fields(self)} - {*family.config_keys, *NOT_SIZES}
        for kind, sizes in family.kind_sizes.items():
            if kind not in self.hybrid_override_pattern:
                unused |= set(sizes)
        for name in unused:
            object.__setattr__(self, name, 0)

    def _settle_widths(self) -> None:
        widths = tuple(self.block_widths)  # a list where it was read from JSON
        blocks = len(self.ffn_layers)
        if widths and (len(widths) != blocks or min(widths) < 1 or sum(widths) != blocks * self.intermediate_size):
            raise ShapeError(
                f"block_widths must be {blocks} positive numbers, of the blocks with an FFN, with the mean "
                f"intermediate_size={self.intermediate_size}, got {list(widths)}"
            )
        # Equal widths are none, so that two spellings of one shape are equal.
        object.__setattr__(self, "block_widths", widths if len(set(widths)) > 1 else ())

    def _needed(self) -> set[str]:
        """Sizes that some tensor of the model runs over, and those that group them."""
        kinds = [kind for kind in self.family.block_kinds if kind in self.hybrid_override_pattern]
        specs = [
            *self.family.tensors_outside(self.sizes),
            *(spec for kind in kinds for spec in self.family.tensors_of(kind, self.sizes)),
        ]
        needed: set[str] = set().union(*(spec.axes() for spec in specs))
        for axis in self.family.axes.values():
            if axis.name in needed:
                needed |= {name for name in (axis.grouped_by, axis.used) if name is not None}
        return needed

    @property
    def config_sizes(self) -> dict[str, int | bool]:
        """The sizes that this model has, as its family's configurations spell them; those of 0 are left out."""
        switches, spelt = self.family.switches, self.family.config_keys
        return {spelt[key][0]: bool(size) if key in switches else size for key, size in self.sizes.items() if size}

    @property
    def head_tensor(self) -> str:
        """Name on disk of the tensor that turns hidden states into logits."""
        return self.family.head_tensor(self.sizes)

    @property
    def num_hidden_layers(self) -> int:
        """Number of blocks."""
        return len(self.hybrid_override_pattern)

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Letter of a kind of block -> how many blocks are of it."""
        return {kind: self.count(kind) for kind in self.family.block_kinds}

    def count(self, kinds: str) -> int:
        """Number of blocks of some kinds, by their letters."""
        return len(self.layers_of(kinds))

    def layers_of(self, kinds: str) -> list[int]:
        """Indices of the blocks of some kinds, by their letters."""
        return [layer for layer, letter in enumerate(self.hybrid_override_pattern) if letter in kinds]

    @property
    def ffn_layers(self) -> list[int]:
        """Indices of the blocks with an FFN, which `block_widths` is of."""
        axis = self.family.axes.get(FFN_AXIS)
        return [] if axis is None or axis.blocks is None else self.layers_of(axis.blocks)

    def sizes_at(self, layer: int) -> Mapping[str, int]:
        """Size of each axis by its name, as one block has them."""
        widths = dict(zip(self.ffn_layers, self.block_widths, strict=True)) if self.block_widths else {}
        return {**self.sizes, FFN_AXIS: widths[layer]} if layer in widths else self.sizes

    def places_of(self, axis: Axis, layers: Iterable[int]) -> list[int | None]:
        """Where an axis keeps index sets of its own: those of some layers that have it; None for the whole model."""
        if axis.blocks is None:
            return [None]
        return [layer for layer in layers if self.hybrid_override_pattern[layer] in axis.blocks]

    def block_params(self, kind: str) -> int:
        """Exact parameters of one block of a kind, its pre-norm included."""
        return self.family.block_params(kind, self.sizes)

    @cached_property
    def params(self) -> int:
        """Exact parameters of the whole model.

        >>> HybridShape(hybrid_override_pattern="M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
        ...             vocab_size=131072, hidden_size=4480, intermediate_size=15680, num_attention_heads=40,
        ...             num_key_value_heads=8, head_dim=128, mamba_num_heads=128, mamba_head_dim=80, n_groups=8,
        ...             ssm_state_size=128).params  # NVIDIA-Nemotron-Nano-9B-v2
        8888227328
        """
        return self.family.params(self.counts, self.sizes)

    def tensors(self) -> dict[str, TensorSpec]:
        """Every tensor of the model by its full name on disk; each entry of a stack has a name of its own."""
        return {name: spec for name, spec, _ in self._tensors()}

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of the model by its full name on disk."""
        return {name: tensor_shape(spec, sizes) for name, spec, sizes in self._tensors()}

    def _tensors(self) -> Iterator[tuple[str, TensorSpec, Mapping[str, int]]]:
        yield from ((spec.name, spec, self.sizes) for spec in self.family.tensors_outside(self.sizes))
        for layer, kind in enumerate(self.hybrid_override_pattern):
            prefix, sizes = self.family.block_prefix.format(layer=layer), self.sizes_at(layer)
            for spec in self.family.tensors_of(kind, sizes):
                yield from ((prefix + name, spec, sizes) for name in entry_names(spec, sizes))

    def resized(self, *, layers: Sequence[int] | None = None, **sizes: int) -> Self:
        """The shape with some dims changed and, if `layers` is given, only those blocks (indices, ascending).

        Raises:
            ShapeError: A size is unknown, `layers` is out of range or out of order, or the blocks differ in width.
        """
        if self.block_widths:
            raise ShapeError("a model whose FFN widths differ by block cannot be cut further; cut its teacher")
        unknown = sorted(set(sizes) - set(self.family.axes))
        if unknown:
            raise ShapeError(f"a prunable dim must be one of {', '.join(self.family.axes)}, got {', '.join(unknown)}")
        changes: dict[str, Any] = dict(sizes)
        if layers is not None:
            if (
                sorted(set(layers)) != list(layers)
                or not layers
                or layers[0] < 0
                or layers[-1] >= self.num_hidden_layers
            ):
                raise ShapeError(
                    f"layers must be ascending block indices below {self.num_hidden_layers}, got {list(layers)}"
                )
            changes["hybrid_override_pattern"] = "".join(self.hybrid_override_pattern[layer] for layer in layers)
        for name, size in sizes.items():
            if size and not self.sizes[name]:
                blocks = self.family.axes[name].blocks
                raise ShapeError(f"{name} must stay 0 in a model without {blocks} blocks, got {size}")
        return dataclasses.replace(self, **changes)


def _check_multiple(name: str, size: int, group_name: str, groups: int) -> None:
    if size % groups:
        below, above = size // groups * groups, (size // groups + 1) * groups
        nearest = f"{below} or {above}" if below else f"{above}"
        raise ShapeError(f"{name} must be a multiple of {group_name}={groups}, got {size}; nearest: {nearest}")
