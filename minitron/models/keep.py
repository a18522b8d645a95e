"""Keep: the blocks and the indices of every axis that pruning keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from minitron.errors import ShapeError
from minitron.models.axes import VOCABULARY, Indices
from minitron.models.shape import FFN_AXIS, HybridShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """The blocks and indices that pruning keeps.

    Attributes:
        layers: Source indices of the kept blocks, ascending.
        indices: (axis, source layer, or None for a model-wide axis) -> kept indices of that axis, in their new order;
            a row of them for each entry of the axis that owns it, as for the neurons of every expert. An axis that is
            not named is kept whole.
    """

    layers: tuple[int, ...]
    indices: Mapping[tuple[str, int | None], Indices]

    def at(self, layer: int | None) -> dict[str, Indices]:
        """Kept indices by axis as seen from one block, or from outside the blocks."""
        return {axis: kept for (axis, where), kept in self.indices.items() if where in (None, layer)}

    def shape(self, source: HybridShape) -> HybridShape:
        """The shape of the pruned model.

        Raises:
            ShapeError: Blocks of one kind keep different numbers of an axis other than the FFN's, or some of them all.
        """
        counts: dict[str, int] = {}
        widths: tuple[int, ...] = ()
        for axis in source.family.axes.values():
            kept = [
                self.indices[axis.name, n].shape[-1] if (axis.name, n) in self.indices else source.sizes[axis.name]
                for n in source.places_of(axis, self.layers)
            ]
            if len(set(kept)) > 1 and axis.name != FFN_AXIS:
                raise ShapeError(f"every block must keep the same number of {axis.name}, got {sorted(set(kept))}")
            if kept:
                counts[axis.name] = sum(kept) // len(kept)
            if axis.name == FFN_AXIS:
                widths = tuple(kept)
        left = replace(source.resized(layers=self.layers, **counts), block_widths=widths)
        tokens = self.indices.get((VOCABULARY.name, None))
        return left if tokens is None else replace(left, vocab_size=len(tokens))


def compose_keeps(source: HybridShape, first: Keep, second: Keep) -> Keep:
    """What survives of a model when what a first cut left of it is cut again.

    Args:
        source: Shape of the model.
        first: What the first cut keeps.
        second: What the second one keeps, in numbers of the model that the first one left.
    """
    layers = tuple(first.layers[position] for position in second.layers)
    indices = {(axis, layer): kept for (axis, layer), kept in first.indices.items() if layer in (None, *layers)}
    for (axis, position), kept in second.indices.items():
        layer = None if position is None else first.layers[position]
        if layer not in (None, *layers):
            continue
        per = source.family.axes[axis].per
        before = indices.get((axis, layer), np.arange(source.sizes[axis]))
        if per is None:
            indices[axis, layer] = before[kept]
            continue
        rows = np.array(np.broadcast_to(before, (source.sizes[per], before.shape[-1])))
        entries = first.indices.get((per, layer), np.arange(source.sizes[per]))
        # Rows of entries that are gone are never used; they stay distinct indices of the right number.
        found = rows[:, : kept.shape[1]].copy()
        for position_after, entry in enumerate(entries.tolist()):
            found[entry] = rows[entry][kept[position_after]]
        indices[axis, layer] = found
    return Keep(layers=layers, indices=indices)
