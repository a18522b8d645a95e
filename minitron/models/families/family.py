"""What a model family declares: block kinds, prunable axes, tensors by axis, and hook points for activations."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from minitron.models.axes import Axis, SizeT, TensorSpec, stack_size, tensor_numel
from minitron.models.families.layer_lists import BlockPattern
from minitron.models.families.multiple import Multiple
from minitron.models.families.recurrent import RecurrentState


@dataclass(frozen=True, slots=True, kw_only=True)
class HookPoint:
    """A place in a block where an activation hook collects statistics.

    Attributes:
        module: Path of the submodule inside the block.
        side: Whether the submodule's input or output is collected.
        part: (tensor name, dim, part) when only one part of a concatenated activation is collected: the part of that
            tensor's dim which produces it.
        flat: Whether the samples' tokens are one dim there, as the modeling code of some experts has them.
        readers: Parameters of the loaded block whose last dim is multiplied with the activation; empty where the next
            operation is no matrix product.
    """

    module: str
    side: Literal["input", "output"]
    part: tuple[str, int, int] | None = None
    flat: bool = False
    readers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A path through a block that ends by adding a projection's output to the residual stream.

    Attributes:
        projection: The submodule whose output is added.
        entered: The submodule whose input is the stream right after that; None where it is the block's output.
    """

    projection: str
    entered: str | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model family as data. Adding a family is writing one of these.

    Attributes:
        model_type: The `model_type` of its configuration.
        block_kinds: Letter of a kind of block -> what it is.
        pattern: How configurations name the kinds of their blocks.
        axes: Prunable axis by name.
        config_keys: Axis or size name -> spellings in published configurations, the family's own first.
        switches: Sizes that are a yes or no in configurations, 1 or 0 here.
        defaults: Size -> what transformers takes where a configuration leaves it out, from the sizes before it.
        kind_sizes: Letter -> sizes that a model has only where it has such blocks; 0 elsewhere.
        left_out: Configuration key -> values of it that every reader assumes and some cannot read, so they are not
            written.
        multiples: Products of sizes that must be multiples of others, beside the axes that are grouped.
        derived: Configuration key -> its value, which follows from the sizes.
        told: Configuration key -> from the sizes, what some reader must be told as it would assume another; else None.
        model_tensors: Tensors outside the blocks, named in full as they are on disk.
        block_tensors: Letter -> tensors of such a block, named inside the block.
        block_prefix: Prefix of a block's tensors on disk, with `{layer}`.
        prefix_on_disk: Prefix of the backbone's tensors in checkpoint files.
        prefix_in_memory: The same prefix in the model's `state_dict`.
        embeddings: The model tensor that token ids look up.
        head: The model tensor that turns hidden states into logits.
        final_norm: The model tensor of the norm after the last block.
        computed: Suffixes of stored tensors that follow from the configuration alone.
        beside: What the names of tensors start with that are no part of the text model: a vision tower, draft layers.
        extra_prefix: What the names of tensors beside the model start with, before the number of their layer; empty
            where there are none.
        extra_tensors: Tensors of such a layer beside those of a block, named inside it.
        extra_count: The configuration key that holds the number of such layers.
        only_values: Configuration key -> its supported values; others change what tensors there are.
        keeps: Letter -> the cache of such a block: keys and values of all tokens or of a window, or a recurrent state.
        state: The recurrent state of the kinds that keep one; None where none does.
        hook_points: Name of an activation -> letter of the block kind that has it -> where it is, one place or several.
        branches: Letter -> the branches of such a block, in the order in which they add to the residual stream.
        experts: Letter -> the submodule of such a block that holds routed experts as stacks.
        embedding_multiplier: The backbone's attribute that its embeddings are multiplied by; None where there is none.
        logits_divisor: The configuration key of what logits are divided by; None where there is none.
        residual_multiplier: The blocks' attribute that branches are multiplied by before they are added.
    """

    model_type: str
    block_kinds: Mapping[str, str]
    pattern: BlockPattern
    axes: Mapping[str, Axis]
    config_keys: Mapping[str, tuple[str, ...]]
    switches: tuple[str, ...] = ()
    defaults: Mapping[str, Callable[[Mapping[str, int]], int]] = field(default_factory=dict)
    kind_sizes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    multiples: tuple[Multiple, ...] = ()
    derived: Mapping[str, Callable[[Mapping[str, int]], int]] = field(default_factory=dict)
    told: Mapping[str, Callable[[Mapping[str, int]], int | None]] = field(default_factory=dict)
    model_tensors: tuple[TensorSpec, ...]
    block_tensors: Mapping[str, tuple[TensorSpec, ...]]
    block_prefix: str
    prefix_on_disk: str
    prefix_in_memory: str
    embeddings: str
    head: str
    final_norm: str
    computed: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    extra_prefix: str = ""
    extra_tensors: tuple[TensorSpec, ...] = ()
    extra_count: str | None = None
    only_values: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    keeps: Mapping[str, Literal["kv", "window", "state"]]
    state: RecurrentState | None = None
    hook_points: Mapping[str, Mapping[str, tuple[HookPoint, ...]]]
    branches: Mapping[str, tuple[Branch, ...]]
    experts: Mapping[str, str] = field(default_factory=dict)
    embedding_multiplier: str | None = None
    logits_divisor: str | None = None
    residual_multiplier: str | None = None

    @functools.cached_property
    def owners(self) -> Mapping[str, str]:
        """Axis that groups another one -> that other one, whose units go with its entries."""
        grouped = [(axis.grouped_by, axis.name) for axis in self.axes.values() if axis.grouped_by is not None]
        return {owner: name for owner, name in grouped if owner in self.axes}

    def with_units(self, changed: Mapping[str, int], source: Mapping[str, int]) -> dict[str, int]:
        """Sizes that are changed, with as many units of each group as before where only its groups are named."""
        sizes = dict(changed)
        for owner, owned in self.owners.items():
            if owner in sizes and source[owner]:
                sizes.setdefault(owned, source[owned] // source[owner] * sizes[owner])
        return sizes

    def is_possible(self, sizes: Mapping[str, SizeT], source: Mapping[str, int]) -> npt.NDArray[np.bool_]:
        """Whether sizes, numbers or arrays, keep to the multiples, and no group keeps more units than it has."""
        kept = [rule.holds(sizes) for rule in self.multiples]
        for owner, axis in self.owners.items():
            if source[owner]:
                whole = sizes[axis] % sizes[owner] == 0
                kept.append(np.asarray(whole & (sizes[axis] * source[owner] <= sizes[owner] * source[axis])))
        return functools.reduce(lambda one, other: np.asarray(one & other), kept, np.asarray(True))

    def axis_named(self, name: str) -> str:
        """The axis of a name, its own or one that the family's configurations give it."""
        spelt = {spelling: axis for axis in self.axes for spelling in self.config_keys[axis]}
        return name if name in self.axes else spelt.get(name, name)

    def tensors_outside(self, sizes: Mapping[str, SizeT]) -> tuple[TensorSpec, ...]:
        """Tensors outside the blocks of a model of these sizes."""
        return tuple(spec for spec in self.model_tensors if spec.exists(sizes))

    def tensors_of(self, kind: str, sizes: Mapping[str, SizeT]) -> tuple[TensorSpec, ...]:
        """Tensors of one block of a kind in a model of these sizes."""
        return tuple(spec for spec in self.block_tensors[kind] if spec.exists(sizes))

    def block_tensor(self, kind: str, name: str) -> TensorSpec:
        """The declaration of one tensor of a block kind."""
        return next(spec for spec in self.block_tensors[kind] if spec.name == name)

    def readers(self, kind: str, point: HookPoint, axis: str, sizes: Mapping[str, SizeT]) -> tuple[str, ...]:
        """A hook point's readers that a block of these sizes has and whose last dim runs over the axis."""
        found = {
            spec.in_memory or spec.name
            for spec in self.tensors_of(kind, sizes)
            if any(axis in part for part in spec.dims[-1])
        }
        return tuple(name for name in point.readers if name in found)

    def name_on_disk(self, kind: str, in_memory: str) -> str:
        """A block tensor's name on disk, from its name in the loaded block."""
        return next(spec.name for spec in self.block_tensors[kind] if (spec.in_memory or spec.name) == in_memory)

    def head_tensor(self, sizes: Mapping[str, SizeT]) -> str:
        """The tensor on disk that turns hidden states into logits: the embeddings where they are tied."""
        head = next(spec for spec in self.model_tensors if spec.name == self.head)
        return self.head if head.exists(sizes) else self.embeddings

    def kinds_that_keep(self, what: str) -> tuple[str, ...]:
        """Letters of the kinds of block that keep keys and values (`kv`, `window`) or a recurrent state (`state`)."""
        return tuple(kind for kind, kept in self.keeps.items() if kept == what)

    def num_keeping(self, what: str, counts: Mapping[str, int]) -> int:
        """Number of blocks whose cache is `kv`, `window` or `state`, by the counts of the kinds."""
        return sum(counts.get(kind, 0) for kind in self.kinds_that_keep(what))

    def block_params(self, kind: str, sizes: Mapping[str, SizeT]) -> SizeT:
        """Exact parameters of one block of a kind, its norms included; sizes are numbers or arrays."""
        return sum(tensor_numel(spec, sizes) for spec in self.tensors_of(kind, sizes))  # type: ignore[return-value]

    def params(self, counts: Mapping[str, int], sizes: Mapping[str, SizeT]) -> SizeT:
        """Exact parameters of a model with these numbers of blocks of each kind; sizes are numbers or arrays."""
        outside = sum(tensor_numel(spec, sizes) for spec in self.tensors_outside(sizes))
        blocks = sum(count * self.block_params(kind, sizes) for kind, count in counts.items() if count)
        return outside + blocks  # type: ignore[return-value]

    def active_params(self, counts: Mapping[str, int], sizes: Mapping[str, SizeT]) -> SizeT:
        """Parameters that multiply one token: of stacked experts those it is routed to, of an embedding table none."""
        head = self.head_tensor(sizes)
        outside = sum(
            tensor_numel(spec, sizes)
            for spec in self.tensors_outside(sizes)
            if spec.name != self.embeddings or spec.name == head
        )
        blocks = sum(
            count * self._active_numel(spec, sizes)
            for kind, count in counts.items()
            if count
            for spec in self.tensors_of(kind, sizes)
        )
        return outside + blocks  # type: ignore[return-value]

    def _active_numel(self, spec: TensorSpec, sizes: Mapping[str, SizeT]) -> SizeT:
        used = None if spec.stacked is None else self.axes[spec.stacked].used
        if used is None:
            return tensor_numel(spec, sizes)
        return tensor_numel(spec, sizes) // stack_size(spec, sizes) * sizes[used]

    def name_in_memory(self, name_on_disk: str) -> str:
        """A tensor's name in the loaded model's `state_dict`."""
        if name_on_disk.startswith(self.prefix_on_disk):
            return self.prefix_in_memory + name_on_disk.removeprefix(self.prefix_on_disk)
        return name_on_disk
