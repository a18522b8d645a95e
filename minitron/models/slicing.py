"""Slices tensors by axis: one generic function of (tensor, declaration, kept indices) that knows no model."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from minitron.errors import ShapeError
from minitron.models.axes import Indices, TensorSpec, kept_positions, tensor_shape
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorCut:
    """How one tensor of the pruned model is cut from one of the source's.

    Attributes:
        name: Name on disk after.
        source: Name on disk before.
        before: Shape before.
        kept: Dim by dim, the kept positions in their new order; None where the dim is kept whole.
        scale: Factor on what is left.
    """

    name: str
    source: str
    before: tuple[int, ...]
    kept: tuple[Indices | None, ...]
    scale: float = 1.0

    @property
    def after(self) -> tuple[int, ...]:
        """Shape after."""
        return tuple(size if kept is None else len(kept) for size, kept in zip(self.before, self.kept, strict=True))


def tensor_cuts(source: HybridShape, keep: Keep, *, scales: Mapping[str, float] | None = None) -> Iterator[TensorCut]:
    """The cuts that make the pruned model, those outside the blocks first, then block by block.

    Args:
        source: Shape before.
        keep: What survives.
        scales: Name on disk before -> factor, of tensors that are scaled.
    """
    scales = scales or {}

    def cuts(
        spec: TensorSpec, prefix_before: str, prefix_after: str, inside: Mapping[str, Indices]
    ) -> Iterator[TensorCut]:
        for name_after, name_before, kept in _entries(spec, source.sizes, inside):
            before = prefix_before + name_before
            yield TensorCut(
                name=prefix_after + name_after,
                source=before,
                before=tensor_shape(spec, source.sizes),
                kept=tuple(kept_positions(dim, source.sizes, kept) for dim in spec.dims),
                scale=scales.get(before, 1.0),
            )

    family = source.family
    for spec in family.tensors_outside(source.sizes):
        yield from cuts(spec, "", "", keep.at(None))
    for position, layer in enumerate(keep.layers):
        before, after = (family.block_prefix.format(layer=number) for number in (layer, position))
        for spec in family.tensors_of(source.hybrid_override_pattern[layer], source.sizes):
            yield from cuts(spec, before, after, keep.at(layer))


def _entries(
    spec: TensorSpec, sizes: Mapping[str, int], inside: Mapping[str, Indices]
) -> Iterator[tuple[str, str, Mapping[str, Indices]]]:
    """(name after, name before, kept indices) of a tensor, or of every kept entry of a stack."""
    if spec.stacked is None:
        yield spec.name, spec.name, inside
        return
    kept = inside.get(spec.stacked, np.arange(sizes[spec.stacked]))
    for after, before in enumerate(kept.tolist()):
        own = {axis: indices if indices.ndim == 1 else indices[before] for axis, indices in inside.items()}
        yield spec.name.format(after), spec.name.format(before), own


def cut_tensor(tensor: torch.Tensor, cut: TensorCut) -> torch.Tensor:
    """The kept part of a tensor, contiguous, in the same dtype; a tensor that keeps everything is returned as it is.

    Raises:
        ShapeError: The tensor does not have the shape that the cut starts from.
    """
    if tuple(tensor.shape) != cut.before:
        raise ShapeError(f"{cut.source} must have the shape {cut.before}, got {tuple(tensor.shape)}")
    for position, kept in enumerate(cut.kept):
        if kept is not None:
            tensor = tensor.index_select(position, torch.from_numpy(np.ascontiguousarray(kept)).to(tensor.device))
    if cut.scale != 1.0:
        tensor = (tensor.float() * cut.scale).to(tensor.dtype)
    return tensor.contiguous()


def slice_tensors(
    read: Callable[[str], torch.Tensor], source: HybridShape, keep: Keep, *, scales: Mapping[str, float] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name on disk, tensor) of the pruned model, block by block.

    Args:
        read: Gives a source tensor by its name on disk.
        source: Shape of the model that `read` reads.
        keep: What survives.
        scales: Name on disk before -> factor, of tensors that are scaled.
    """
    for cut in tensor_cuts(source, keep, scales=scales):
        yield cut.name, cut_tensor(read(cut.source), cut)
