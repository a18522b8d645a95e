"""Slices tensors by axis: one generic function of (tensor, declaration, kept indices) that knows no model."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from minitron.errors import ShapeError
from minitron.models.axes import Indices, TensorSpec, kept_positions, tensor_shape
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape

Kept = tuple[Indices | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorCut:
    """How one tensor of the pruned model is cut from one of the source's.

    Attributes:
        name: Name on disk after.
        source: Name on disk before.
        before: Shape before.
        kept: Dim by dim, the kept positions in their new order; None where the dim is kept whole; a row of them for
            each kept entry of the first dim, where the entries of a stack keep positions of their own.
        scale: Factor on what is left.
        plus: What the model adds to the tensor before it multiplies by it, which is scaled, too.
    """

    name: str
    source: str
    before: tuple[int, ...]
    kept: Kept
    scale: float = 1.0
    plus: float = 0.0

    @property
    def after(self) -> tuple[int, ...]:
        """Shape after."""
        return tuple(
            size if kept is None else kept.shape[-1] for size, kept in zip(self.before, self.kept, strict=True)
        )


def tensor_cuts(source: HybridShape, keep: Keep, *, scales: Mapping[str, float] | None = None) -> Iterator[TensorCut]:
    """The cuts that make the pruned model, those outside the blocks first, then block by block.

    Args:
        source: Shape before.
        keep: What survives.
        scales: Name on disk before -> factor, of tensors that are scaled.
    """
    scales = scales or {}
    hidden = keep.indices.get(("hidden_size", None))
    narrowing = 1.0 if hidden is None else len(hidden) / source.hidden_size

    def cuts(
        spec: TensorSpec, prefix_before: str, prefix_after: str, inside: Mapping[str, Indices]
    ) -> Iterator[TensorCut]:
        for name_after, name_before, kept in _entries(spec, source.sizes, inside):
            before = prefix_before + name_before
            yield TensorCut(
                name=prefix_after + name_after,
                source=before,
                before=tensor_shape(spec, source.sizes),
                kept=kept,
                scale=scales.get(before, 1.0) * narrowing**-spec.hidden_power,
                plus=spec.norm or 0.0,
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
) -> Iterator[tuple[str, str, Kept]]:
    """(name after, name before, kept positions) of a tensor, or of every kept entry of a stack."""
    if spec.stacked is None:
        yield spec.name, spec.name, _positions(spec, sizes, inside)
        return
    entries = inside.get(spec.stacked, np.arange(sizes[spec.stacked]))
    each = [
        _positions(spec, sizes, {axis: kept if kept.ndim == 1 else kept[before] for axis, kept in inside.items()})
        for before in entries.tolist()
    ]
    if spec.is_whole:
        own = any(inside[axis].ndim > 1 for axis in spec.axes() & inside.keys())
        rows = tuple(None if dim[0] is None else np.stack(dim) if own else dim[0] for dim in zip(*each, strict=True))
        yield spec.name, spec.name, (inside.get(spec.stacked), *rows)
        return
    for after, (before, kept) in enumerate(zip(entries.tolist(), each, strict=True)):
        yield spec.name.format(after), spec.name.format(before), kept


def _positions(spec: TensorSpec, sizes: Mapping[str, int], inside: Mapping[str, Indices]) -> Kept:
    return tuple(kept_positions(dim, sizes, inside) for dim in spec.dims)


def cut_tensor(tensor: torch.Tensor, cut: TensorCut) -> torch.Tensor:
    """The kept part of a tensor, contiguous, in the same dtype; a tensor that keeps everything is returned as it is.

    Raises:
        ShapeError: The tensor does not have the shape that the cut starts from.
    """
    if tuple(tensor.shape) != cut.before:
        raise ShapeError(f"{cut.source} must have the shape {cut.before}, got {tuple(tensor.shape)}")
    for dim, kept in enumerate(cut.kept):
        if kept is not None and kept.ndim == 1:
            tensor = tensor.index_select(dim, _indices(kept, tensor))
        elif kept is not None:
            entries = zip(tensor, kept, strict=True)
            tensor = torch.stack([entry.index_select(dim - 1, _indices(row, tensor)) for entry, row in entries])
    return scale_tensor(tensor, cut).contiguous()


def scale_tensor(tensor: torch.Tensor, cut: TensorCut) -> torch.Tensor:
    """What is left of a tensor times the cut's factor, in the same dtype; computed in fp32 at least."""
    if cut.scale == 1.0:
        return tensor
    wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    # Without an addend none is added: -0 stays what it is.
    scaled = (wide + cut.plus) * cut.scale - cut.plus if cut.plus else wide * cut.scale
    return scaled.to(tensor.dtype)


def _indices(kept: Indices, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(kept)).to(like.device)


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
