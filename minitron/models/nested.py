"""Nested students: smaller models whose weights are the first units, along every axis, of a larger one's."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from minitron.errors import ShapeError
from minitron.models.axes import Axis, Indices
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedStudent:
    """A student that is a prefix of the largest one in every axis, and has some of its blocks.

    Attributes:
        name: What it is called.
        shape: Its shape.
        layers: The largest student's blocks that it has, ascending.
        share: Parts of the training text that are its own; the largest student has one.
        weight: Weight of its loss; the largest student's is 1.
    """

    name: str
    shape: HybridShape
    layers: tuple[int, ...]
    share: int = 1
    weight: float = 1.0

    def keep(self, largest: HybridShape) -> Keep:
        """What it has of the largest student.

        Raises:
            ShapeError: It exceeds the largest student somewhere.
        """
        return prefix_keep(largest, self.shape, self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedStudents:
    """The students in one set of weights, whose units lie in the order of their importance.

    Attributes:
        students: The smaller students that are trained.
        removed: The largest student's blocks in the order in which they go, as far as the smallest student goes.
    """

    students: tuple[NestedStudent, ...]
    removed: tuple[int, ...] = ()

    def named(self, name: str) -> NestedStudent:
        """A student by its name.

        Raises:
            ShapeError: There is none of that name.
        """
        found = {student.name: student for student in self.students}
        if name not in found:
            raise ShapeError(f"a student must be one of {', '.join(found)}, got {name!r}")
        return found[name]

    def layers(self, largest: HybridShape, depth: int | None) -> tuple[int, ...]:
        """The blocks that a student of so many has.

        Raises:
            ShapeError: There is no such number of them.
        """
        blocks = largest.num_hidden_layers
        gone = 0 if depth is None else blocks - depth
        if not 0 <= gone <= len(self.removed):
            raise ShapeError(f"num_hidden_layers must be {blocks - len(self.removed)} to {blocks}, got {depth}")
        return tuple(sorted(set(range(blocks)) - set(self.removed[:gone])))

    def of_size(
        self, largest: HybridShape, widths: Mapping[str, int], depth: int | None, *, name: str
    ) -> NestedStudent:
        """A student of some sizes, trained or not.

        Args:
            largest: The largest student's shape.
            widths: Sizes by minitron's names or a configuration's own.
            depth: How many blocks; all when None.
            name: What it is called.

        Raises:
            ShapeError: The largest student holds none such.
        """
        family = largest.family
        sizes = family.with_units({family.axis_named(axis): size for axis, size in widths.items()}, largest.sizes)
        layers = self.layers(largest, depth)
        student = NestedStudent(name=name, shape=largest.resized(layers=layers, **sizes), layers=layers)
        student.keep(largest)
        return student


def prefix_keep(source: HybridShape, target: HybridShape, layers: tuple[int, ...]) -> Keep:
    """The first units of every axis; where an axis is grouped, the first groups and the first units of each.

    Args:
        source: Shape before.
        target: Shape after.
        layers: Kept blocks, ascending.

    Raises:
        ShapeError: The target exceeds the source, or a group of it the source's group.
    """
    family = source.family
    kinds = {source.hybrid_override_pattern[layer] for layer in layers}
    there = [axis for axis in family.axes.values() if axis.blocks is None or kinds & set(axis.blocks)]
    for axis in there:
        if target.sizes[axis.name] > source.sizes[axis.name]:
            found, most = target.sizes[axis.name], source.sizes[axis.name]
            raise ShapeError(f"{axis.name} must not exceed the largest student's {most}, got {found}")
    changed = {axis.name for axis in there if target.sizes[axis.name] != source.sizes[axis.name]}
    changed |= {family.owners[name] for name in changed & family.owners.keys()}
    indices: dict[tuple[str, int | None], Indices] = {}
    for axis in there:
        if axis.name in changed:
            first = _first_units(axis, source, target)
            indices |= {(axis.name, layer): first for layer in source.places_of(axis, layers)}
    return Keep(layers=layers, indices=indices)


def _first_units(axis: Axis, source: HybridShape, target: HybridShape) -> Indices:
    """Positions of the first units of one index set, a row of them for each entry of an axis that owns it."""
    kept = target.sizes[axis.name]
    if axis.per is not None:
        return np.tile(np.arange(kept, dtype=np.int64), (source.sizes[axis.per], 1))
    if axis.grouped_by is None:
        return np.arange(kept, dtype=np.int64)
    group_size = source.sizes[axis.name] // source.sizes[axis.grouped_by]
    groups = target.sizes[axis.grouped_by]
    if kept // groups > group_size:
        most = group_size * groups
        raise ShapeError(f"{axis.name} must be at most {most} with {axis.grouped_by}={groups}, got {kept}")
    starts = group_size * np.arange(groups, dtype=np.int64)
    return (starts[:, None] + np.arange(kept // groups, dtype=np.int64)).reshape(-1)
