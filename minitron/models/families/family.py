"""What a model family declares: block kinds, prunable axes, tensors by axis, and hook points for activations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from minitron.models.axes import Axis, SizeT, TensorSpec, stack_size, tensor_numel


@dataclass(frozen=True, slots=True, kw_only=True)
class HookPoint:
    """A place in a block where an activation hook collects statistics.

    Attributes:
        module: Path of the submodule inside the block.
        side: Whether the submodule's input or output is collected.
        part: (tensor name, dim, part) when only one part of a concatenated activation is collected: the part of that
            tensor's dim which produces it.
        readers: Parameters of the loaded block whose last dim is multiplied with the activation; empty where the next
            operation is no matrix product.
    """

    module: str
    side: Literal["input", "output"]
    part: tuple[str, int, int] | None = None
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
        block_kinds: Letter of a kind of block -> what configurations call it in their list of blocks.
        only_kind: The letter of all blocks where configurations give their number alone; None where they name each.
        axes: Prunable axis by name.
        config_keys: Axis or size name -> spellings in published configurations, the first one canonical.
        switches: Sizes that are a yes or no in configurations, 1 or 0 here.
        defaults: Size -> what transformers takes where a configuration leaves it out, from the sizes before it.
        kind_sizes: Letter -> sizes that a model has only where it has such blocks; 0 elsewhere.
        left_out: Configuration key -> values of it that every reader assumes and some cannot read, so they are not
            written.
        multiples: Size -> the size that it must be a multiple of, beside those that an axis is grouped by.
        model_tensors: Tensors outside the blocks, named in full as they are on disk.
        block_tensors: Letter -> tensors of such a block, named inside the block.
        block_prefix: Prefix of a block's tensors on disk, with `{layer}`.
        prefix_on_disk: Prefix of the backbone's tensors in checkpoint files.
        prefix_in_memory: The same prefix in the model's `state_dict`.
        embeddings: The model tensor that token ids look up.
        head: The model tensor that turns hidden states into logits.
        final_norm: The model tensor of the norm after the last block.
        computed: Suffixes of stored tensors that follow from the configuration alone.
        extra_prefix: What the names of tensors beside the model start with, before the number of their layer; empty
            where there are none.
        extra_tensors: Tensors of such a layer beside those of a block, named inside it.
        extra_count: The configuration key that holds the number of such layers.
        only_values: Configuration key -> its supported values; others change what tensors there are.
        keeps: Letter -> the cache of such a block: keys and values, or a Mamba state.
        hook_points: Name of an activation -> letter of the block kind that has it -> where it is, one place or several.
        branches: Letter -> the branches of such a block, in the order in which they add to the residual stream.
        experts: Letter -> the submodule of such a block that holds routed experts as stacks.
    """

    model_type: str
    block_kinds: Mapping[str, str]
    only_kind: str | None = None
    axes: Mapping[str, Axis]
    config_keys: Mapping[str, tuple[str, ...]]
    switches: tuple[str, ...] = ()
    defaults: Mapping[str, Callable[[Mapping[str, int]], int]] = field(default_factory=dict)
    kind_sizes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    multiples: Mapping[str, str] = field(default_factory=dict)
    model_tensors: tuple[TensorSpec, ...]
    block_tensors: Mapping[str, tuple[TensorSpec, ...]]
    block_prefix: str
    prefix_on_disk: str
    prefix_in_memory: str
    embeddings: str
    head: str
    final_norm: str
    computed: tuple[str, ...] = ()
    extra_prefix: str = ""
    extra_tensors: tuple[TensorSpec, ...] = ()
    extra_count: str | None = None
    only_values: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    keeps: Mapping[str, Literal["kv", "state"]]
    hook_points: Mapping[str, Mapping[str, tuple[HookPoint, ...]]]
    branches: Mapping[str, tuple[Branch, ...]]
    experts: Mapping[str, str] = field(default_factory=dict)

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

    def head_tensor(self, sizes: Mapping[str, SizeT]) -> str:
        """The tensor on disk that turns hidden states into logits: the embeddings where they are tied."""
        head = next(spec for spec in self.model_tensors if spec.name == self.head)
        return self.head if head.exists(sizes) else self.embeddings

    def kinds_that_keep(self, what: str) -> tuple[str, ...]:
        """Letters of the kinds of block that keep keys and values (`kv`) or a Mamba state (`state`)."""
        return tuple(kind for kind, kept in self.keeps.items() if kept == what)

    def num_keeping(self, what: str, counts: Mapping[str, int]) -> int:
        """Number of blocks that keep keys and values (`kv`) or a Mamba state (`state`), by the counts of the kinds."""
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
