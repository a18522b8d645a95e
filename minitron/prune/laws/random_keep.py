"""Random units to keep: any of an axis, in any order, as its groups allow."""

import numpy as np

from minitron.errors import ShapeError
from minitron.models.axes import Axis, Indices
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape


def smaller_sizes(shape: HybridShape, axis: Axis) -> list[int]:
    """Sizes below the axis's own that a shape can have with nothing else changed; whole groups go with it."""
    found = []
    for size in range(1, shape.sizes[axis.name]):
        changed = shape.family.with_units({axis.name: size}, shape.sizes)
        try:
            smaller = shape.resized(layers=None, **changed)
        except ShapeError:
            continue
        if shape.family.is_possible(smaller.sizes, shape.sizes):
            found.append(size)
    return found


def random_keep(shape: HybridShape, axis: Axis, rng: np.random.Generator, *, size: int) -> Keep:
    """A keep of so many random units of one axis in every block, in random order; of the axis that it groups, too."""
    layers = tuple(range(shape.num_hidden_layers))
    owned = shape.family.owners.get(axis.name)
    indices: dict[tuple[str, int | None], Indices] = {}
    for layer in shape.places_of(axis, layers):
        indices[axis.name, layer] = random_rows(shape, axis, rng, size=size)
        if owned is not None:
            groups = indices[axis.name, layer]
            all_of = shape.family.with_units({axis.name: size}, shape.sizes)[owned]
            indices[owned, layer] = random_units(shape, shape.family.axes[owned], rng, size=all_of, groups=groups)
    return Keep(layers=layers, indices=indices)


def random_rows(
    shape: HybridShape, axis: Axis, rng: np.random.Generator, *, size: int, groups: Indices | None = None
) -> Indices:
    """So many random units of an axis in one block: a row of them for each entry of the axis that owns it, if any."""
    if axis.per is None:
        return random_units(shape, axis, rng, size=size, groups=groups)
    return np.stack([random_units(shape, axis, rng, size=size) for _ in range(shape.sizes[axis.per])])


def random_units(
    shape: HybridShape, axis: Axis, rng: np.random.Generator, *, size: int, groups: Indices | None = None
) -> Indices:
    """So many random units of one index set, in random order, the same number of each group, group by group.

    Args:
        shape: The shape.
        axis: The axis.
        rng: Where chance comes from.
        size: How many units.
        groups: The groups that stay, in their new order; all in order when None.
    """
    number = 1 if axis.grouped_by is None else shape.sizes[axis.grouped_by]
    kept_groups = np.arange(number) if groups is None else groups
    per_group = shape.sizes[axis.name] // number
    runs = [
        group * per_group + rng.permutation(per_group)[: size // len(kept_groups)] for group in kept_groups.tolist()
    ]
    return np.concatenate(runs).astype(np.int64)
