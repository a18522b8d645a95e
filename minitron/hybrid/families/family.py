"""What a model family declares: its block kinds, prunable axes, tensors by axis, and where to listen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from minitron.hybrid.axes import Axis, SizeT, TensorSpec, tensor_numel


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """A place in a block where a statistic listens.

    Attributes:
        module: Path of the submodule inside the block.
        side: Whether its input or its output is heard.
        part: (tensor name, dim, part) when only one part of a concatenated activation is heard: the part of that
            tensor's dim which produces it.
        readers: Tensors of the block whose columns are multiplied with what is heard; empty where the next operation
            is no matrix product.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A model family as data. Adding a family is writing one of these.

    Attributes:
        model_type: The `model_type` of its configuration.
        block_kinds: Letter of the published block pattern -> name of the kind in `layers_block_type`.
        axes: Prunable axis by name.
        config_keys: Axis or size name -> spellings in published configurations, the first one canonical.
        model_tensors: Tensors outside the blocks, named in full as they are on disk.
        block_tensors: Letter -> tensors of such a block, named inside the block.
        block_prefix: Prefix of a block's tensors on disk, with `{layer}`.
        prefix_on_disk: Prefix of the backbone's tensors in checkpoint files.
        prefix_in_memory: The same prefix in the model's `state_dict`.
        embeddings: The model tensor that token ids look up.
        head: The model tensor that turns hidden states into logits.
        final_norm: The model tensor of the norm after the last block.
        ignored_tensors: Prefixes of tensors that readers of the family leave out on purpose.
        taps: Name of a place -> letter of the block kind that has it -> where to listen.
        branches: Letter -> the branches of such a block, in the order in which they add to the residual stream.
    """

    model_type: str
    block_kinds: Mapping[str, str]
    axes: Mapping[str, Axis]
    config_keys: Mapping[str, tuple[str, ...]]
    model_tensors: tuple[TensorSpec, ...]
    block_tensors: Mapping[str, tuple[TensorSpec, ...]]
    block_prefix: str
    prefix_on_disk: str
    prefix_in_memory: str
    embeddings: str
    final_norm: str
    head: str
    ignored_tensors: tuple[str, ...]
    taps: Mapping[str, Mapping[str, Tap]]
    branches: Mapping[str, tuple[Branch, ...]]

    def block_tensor(self, kind: str, name: str) -> TensorSpec:
        """The declaration of one tensor of a block kind."""
        return next(spec for spec in self.block_tensors[kind] if spec.name == name)

    def block_params(self, kind: str, sizes: Mapping[str, SizeT]) -> SizeT:
        """Exact parameters of one block of a kind, its pre-norm included; sizes are numbers or arrays."""
        return sum(tensor_numel(spec, sizes) for spec in self.block_tensors[kind])  # type: ignore[return-value]

    def params(self, counts: Mapping[str, int], sizes: Mapping[str, SizeT]) -> SizeT:
        """Exact parameters of a model with so many blocks of each kind; sizes are numbers or arrays."""
        outside = sum(tensor_numel(spec, sizes) for spec in self.model_tensors)
        blocks = sum(count * self.block_params(kind, sizes) for kind, count in counts.items() if count)
        return outside + blocks  # type: ignore[return-value]

    def name_in_memory(self, name_on_disk: str) -> str:
        """A tensor's name in the loaded model's `state_dict`."""
        if name_on_disk.startswith(self.prefix_on_disk):
            return self.prefix_in_memory + name_on_disk.removeprefix(self.prefix_on_disk)
        return name_on_disk
