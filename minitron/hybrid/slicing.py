"""Cutting tensors by axis: one generic function of (tensor, declaration, kept indices) that knows no model."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from minitron.hybrid.axes import Indices, TensorSpec, kept_positions, tensor_shape
from minitron.hybrid.shape import HybridShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What of a model survives.

    Attributes:
        layers: Source indices of the kept blocks, ascending.
        indices: (axis, source layer, or None for a model-wide axis) -> kept indices of that axis, in their new order.
            An axis that is not named is kept whole.
    """

    layers: tuple[int, ...]
    indices: Mapping[tuple[str, int | None], Indices]

    def at(self, layer: int | None) -> dict[str, Indices]:
        """Kept indices by axis as seen from one block, or from outside the blocks."""
        return {axis: kept for (axis, where), kept in self.indices.items() if where in (None, layer)}

    def shape(self, source: HybridShape) -> HybridShape:
        """The shape that is left of the source.

        Raises:
            ValueError: Blocks of one kind keep different numbers of an axis, or some of them all.
        """
        counts: dict[str, set[int]] = {}
        for axis in source.family.axes.values():
            layers = (
                [None]
                if axis.block is None
                else [n for n in self.layers if source.hybrid_override_pattern[n] == axis.block]
            )
            kept = {
                len(self.indices[axis.name, n]) if (axis.name, n) in self.indices else source.sizes[axis.name]
                for n in layers
            }
            if len(kept) > 1:
                raise ValueError(f"every block must keep the same number of {axis.name}, got {sorted(kept)}")
            if kept:
                counts[axis.name] = kept
        return source.resized(layers=self.layers, **{name: min(kept) for name, kept in counts.items()})


def slice_tensor(
    tensor: torch.Tensor, spec: TensorSpec, sizes: Mapping[str, int], keep: Mapping[str, Indices]
) -> torch.Tensor:
    """The part of a tensor that survives, contiguous, in the same dtype; a tensor that keeps everything is passed on.

    Raises:
        ValueError: The tensor does not have the shape that its declaration and the sizes imply.
    """
    if tuple(tensor.shape) != tensor_shape(spec, sizes):
        raise ValueError(f"{spec.name} must have the shape {tensor_shape(spec, sizes)}, got {tuple(tensor.shape)}")
    for position, dim in enumerate(spec.dims):
        kept = kept_positions(dim, sizes, keep)
        if kept is not None:
            tensor = tensor.index_select(position, torch.from_numpy(np.ascontiguousarray(kept)).to(tensor.device))
    return tensor.contiguous()


def slice_tensors(
    read: Callable[[str], torch.Tensor], source: HybridShape, keep: Keep
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name on disk, tensor) of the pruned model, block by block.

    Args:
        read: Gives a source tensor by its name on disk.
        source: Shape of the model that `read` reads.
        keep: What survives.
    """
    prefix = source.family.block_prefix
    outside = keep.at(None)
    for spec in source.family.model_tensors:
        yield spec.name, slice_tensor(read(spec.name), spec, source.sizes, outside)
    for position, layer in enumerate(keep.layers):
        inside = keep.at(layer)
        for spec in source.family.block_tensors[source.hybrid_override_pattern[layer]]:
            tensor = read(prefix.format(layer=layer) + spec.name)
            yield prefix.format(layer=position) + spec.name, slice_tensor(tensor, spec, source.sizes, inside)
