"""Where the tensors of checkpoint files lie in a loaded model, as data. Loads no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from minitron.models.axes import TensorSpec, entry_names
from minitron.models.families.family import Family
from minitron.models.shape import HybridShape


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor of the files lies in a model's `state_dict`.

    Attributes:
        name: The name there.
        entry: Its entry along the first dim, where it is one of a stack.
        fused: (number, of how many) of equal runs of the entry's first dim, where several are fused.
    """

    name: str
    entry: int | None = None
    fused: tuple[int, int] = (0, 1)

    def shape_in(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of what lies there, from that of the tensor in memory.

        >>> Place("up", entry=1, fused=(1, 2)).shape_in((3, 4, 5))
        (2, 5)
        """
        if self.entry is None:
            return tuple(shape)
        _, parts = self.fused
        return (shape[1] // parts, *shape[2:])

    def run_in(self, shape: Sequence[int]) -> range:
        """Its elements among those of the tensor in memory, row by row: they follow one another.

        >>> Place("up", entry=1, fused=(1, 2)).run_in((3, 4, 5))
        range(30, 40)
        """
        length = math.prod(self.shape_in(shape))
        part, parts = self.fused
        start = ((self.entry or 0) * parts + part) * length
        return range(start, start + length)


def block_places(family: Family, kind: str, sizes: Mapping[str, int]) -> dict[str, Place]:
    """Name on disk -> place, both inside a block of a kind."""
    found: dict[str, Place] = {}
    for spec in family.tensors_of(kind, sizes):
        found |= _places(spec, sizes)
    return found


def model_places(shape: HybridShape) -> dict[str, Place]:
    """Full name on disk -> place in the loaded model, of every tensor of the files."""
    family = shape.family
    found = {spec.name: Place(family.name_in_memory(spec.name)) for spec in family.tensors_outside(shape.sizes)}
    for layer, kind in enumerate(shape.hybrid_override_pattern):
        prefix = family.block_prefix.format(layer=layer)
        for name, place in block_places(family, kind, shape.sizes).items():
            found[prefix + name] = replace(place, name=family.name_in_memory(prefix + place.name))
    return found


def _places(spec: TensorSpec, sizes: Mapping[str, int]) -> dict[str, Place]:
    if spec.stacked is None or spec.is_whole:
        return {spec.name: Place(spec.in_memory or spec.name)}
    place = Place(spec.in_memory or spec.name, fused=spec.fused or (0, 1))
    return {name: replace(place, entry=entry) for entry, name in enumerate(entry_names(spec, sizes))}
