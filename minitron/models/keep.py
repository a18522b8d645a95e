"""Keep: the blocks and the indices of every axis that pruning keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

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
