"""Where the tensors of checkpoint files lie in a loaded model, which stacks the experts that files keep apart."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from minitron.errors import CheckpointError
from minitron.models.axes import TensorSpec, entry_names
from minitron.models.families.family import Family
from minitron.models.shape import HybridShape


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor's name in a model's `state_dict`, and its entry along the first dim where it is one of a stack."""

    name: str
    entry: int | None = None


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
            found[prefix + name] = Place(family.name_in_memory(prefix + place.name), place.entry)
    return found


def read_place(state: Mapping[str, torch.Tensor], place: Place) -> torch.Tensor:
    """The tensor at a place of a model's state, sharing its memory."""
    tensor = state[place.name]
    return tensor if place.entry is None else tensor[place.entry]


def gather_state(tensors: Iterable[tuple[str, torch.Tensor]], places: Mapping[str, Place]) -> dict[str, torch.Tensor]:
    """The state of a loaded model (or block) from tensors by their names on disk; stacks are put together.

    Raises:
        CheckpointError: A stack lacks an entry.
    """
    state: dict[str, torch.Tensor] = {}
    stacks: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in tensors:
        place = places[name]
        if place.entry is None:
            state[place.name] = tensor
        else:
            stacks.setdefault(place.name, {})[place.entry] = tensor
    for name, entries in stacks.items():
        if sorted(entries) != list(range(len(entries))):
            raise CheckpointError(f"the entries of {name} must be numbered from 0 without gaps, got {sorted(entries)}")
        state[name] = torch.stack([entries[entry] for entry in range(len(entries))])
    return state


def _places(spec: TensorSpec, sizes: Mapping[str, int]) -> dict[str, Place]:
    if spec.stacked is None or spec.in_memory is None:
        return {spec.name: Place(spec.name)}
    return {name: Place(spec.in_memory, entry) for entry, name in enumerate(entry_names(spec, sizes))}
