"""Declarations of families with one error planted in each, of every kind that one can make while writing them."""

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from minitron.models.axes import Dim, Part, TensorSpec
from minitron.models.families.family import Family
from minitron.models.shape import HybridShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planted:
    """One error.

    Attributes:
        where: The axis or the tensor, behind the letter of its block.
        what: The error.
        family: The family with it.
    """

    where: str
    what: str
    family: Family

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def planted(shape: HybridShape) -> Iterator[Planted]:
    """Every error in the declarations that a shape uses."""
    family = shape.family
    for axis in family.axes.values():
        if axis.grouped_by is not None and shape.sizes[axis.grouped_by] > 1:
            axes = {**family.axes, axis.name: replace(axis, grouped_by=None)}
            yield Planted(where=axis.name, what="no groups", family=replace(family, axes=axes))
    for kind in dict.fromkeys(shape.hybrid_override_pattern):
        specs = family.block_tensors[kind]
        for number, spec in enumerate(specs):
            for what, wrong in _wrong(spec, shape):
                tensors = {**family.block_tensors, kind: (*specs[:number], wrong, *specs[number + 1 :])}
                yield Planted(where=f"{kind} {spec.name}", what=what, family=replace(family, block_tensors=tensors))
    for number, spec in enumerate(family.model_tensors):
        for what, wrong in _wrong(spec, shape):
            outside = (*family.model_tensors[:number], wrong, *family.model_tensors[number + 1 :])
            yield Planted(where=spec.name, what=what, family=replace(family, model_tensors=outside))


def _wrong(spec: TensorSpec, shape: HybridShape) -> Iterator[tuple[str, TensorSpec]]:
    """(what, the declaration with it) of one tensor."""
    if not spec.exists(shape.sizes):
        return
    for number, dim in enumerate(spec.dims):
        for what, wrong in _wrong_dims(dim, shape):
            dims = (*spec.dims[:number], wrong, *spec.dims[number + 1 :])
            yield f"{what} in dim {number}", replace(spec, dims=dims)
    if spec.norm is not None:
        yield f"adds {1 - spec.norm:.0f}", replace(spec, norm=1 - spec.norm)
        yield "no norm", replace(spec, norm=None)
    if spec.fused is not None:
        number, of = spec.fused
        yield "another run of the fused tensor", replace(spec, fused=(of - 1 - number, of))
    if spec.hidden_power:
        yield "no power of the hidden size", replace(spec, hidden_power=0.0)
        yield "the other power of the hidden size", replace(spec, hidden_power=-spec.hidden_power)


def _wrong_dims(dim: Dim, shape: HybridShape) -> Iterator[tuple[str, Dim]]:
    sizes, axes = shape.sizes, shape.family.axes
    for one in range(len(dim)):
        for other in range(one + 1, len(dim)):
            if dim[one] != dim[other]:
                swapped = list(dim)
                swapped[one], swapped[other] = dim[other], dim[one]
                yield f"parts {one} and {other} swapped", tuple(swapped)
    for number, part in enumerate(dim):

        def with_part(wrong: Part, number: int = number) -> Dim:
            return (*dim[:number], wrong, *dim[number + 1 :])

        if len(part) > 1:
            yield f"part {number} in the other order", with_part(part[::-1])
        for place, axis in enumerate(part):
            if isinstance(axis, str) and axis in axes and sizes[axis]:

                def with_axis(wrong: Any, part: Part = part, place: int = place) -> Part:
                    return (*part[:place], wrong, *part[place + 1 :])

                yield f"{axis} forgotten in part {number}", with_part(with_axis(sizes[axis]))
                others = [name for name in axes if name != axis and sizes[name]]
                yield f"{others[0]} for {axis} in part {number}", with_part(with_axis(others[0]))
