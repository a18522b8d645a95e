"""Tensors between checkpoint files and a loaded model, which stacks and fuses the experts that files keep apart."""

from collections.abc import Iterable, Mapping

import torch

from minitron.checkpoints.places import Place
from minitron.errors import CheckpointError


def read_place(state: Mapping[str, torch.Tensor], place: Place) -> torch.Tensor:
    """The tensor at a place of a model's state, sharing its memory."""
    tensor = state[place.name]
    part, parts = place.fused
    own = tensor if place.entry is None else tensor[place.entry]
    return own if parts == 1 else own.narrow(0, part * (len(own) // parts), len(own) // parts)


def gather_state(tensors: Iterable[tuple[str, torch.Tensor]], places: Mapping[str, Place]) -> dict[str, torch.Tensor]:
    """The state of a loaded model (or block) from tensors by their names on disk; stacks are put together.

    Raises:
        CheckpointError: A stack lacks an entry.
    """
    state: dict[str, torch.Tensor] = {}
    stacks: dict[str, dict[int, dict[int, torch.Tensor]]] = {}
    for name, tensor in tensors:
        place = places[name]
        if place.entry is None:
            state[place.name] = tensor
        else:
            stacks.setdefault(place.name, {}).setdefault(place.entry, {})[place.fused[0]] = tensor
    for name, entries in stacks.items():
        if sorted(entries) != list(range(len(entries))):
            raise CheckpointError(f"the entries of {name} must be numbered from 0 without gaps, got {sorted(entries)}")
        state[name] = torch.stack([_fused(entries[entry]) for entry in range(len(entries))])
    return state


def _fused(parts: Mapping[int, torch.Tensor]) -> torch.Tensor:
    return torch.cat([parts[part] for part in sorted(parts)]) if len(parts) > 1 else parts[0]
