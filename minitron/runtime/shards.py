"""Weights in shards over several processes, read from a checkpoint and gathered from the processes run by run.

Shards are whole rows of a tensor, and what a checkpoint stores is a tensor of the model or consecutive rows of one, so
that both are runs of its elements: what a process reads or sends is where two of them overlap. No process ever holds
more than its shards and a buffer.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor, Shard
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.headers import StoredTensor
from minitron.checkpoints.places import Place, model_places
from minitron.checkpoints.reading import BUFFER_BYTES
from minitron.checkpoints.weights import read_run
from minitron.errors import MinitronError
from minitron.runtime.dtypes import held_dtype
from minitron.units import MIB

PIECE_BYTES = 64 * MIB


def read_weights(model: PreTrainedModel, checkpoint: Checkpoint, *, device: torch.device) -> None:
    """Gives a model without weights those of a checkpoint, in place; of tensors in shards this process's rows alone.

    Memory: what the process holds of the model, and a buffer of 8 MiB. Numbers and dtypes are those of `load_model`.

    Args:
        model: A model on torch's meta device, whole or in shards (FSDP2); tables that no file holds stay as they are.
        checkpoint: The checkpoint that it was made empty from.
        device: Where its weights shall lie.

    Raises:
        MinitronError: The checkpoint's tensors are not those of the model.
    """
    state = model.state_dict(keep_vars=True)
    parts = _parts(state, checkpoint)
    made: dict[int, torch.Tensor] = {}
    # One for all tensors: between them it would leave holes, which the allocator keeps.
    buffer = torch.empty(BUFFER_BYTES, dtype=torch.uint8)
    for name, tensor in state.items():
        is_first = id(tensor) not in made  # one under two names, as a tied head is, stays one
        if is_first:
            made[id(tensor)] = _without_numbers(tensor, held_dtype(model, name, model.dtype), device)
        module, _, attribute = name.rpartition(".")
        # Before it is read, since FSDP2 copies shards of fewer rows than others: memory that was never used costs none.
        model.get_submodule(module).load_state_dict({attribute: made[id(tensor)]}, strict=False, assign=True)
        if is_first:
            for stored, place in parts[id(tensor)]:
                _read_part(stored, place.run_in(tensor.shape), made[id(tensor)], buffer)


def _parts(state: Mapping[str, torch.Tensor], checkpoint: Checkpoint) -> dict[int, list[tuple[StoredTensor, Place]]]:
    """A tensor of the model -> what the checkpoint stores of it."""
    parts: dict[int, list[tuple[StoredTensor, Place]]] = {}
    for name, place in model_places(checkpoint.shape).items():
        stored, within = checkpoint.tensors[name], state.get(place.name)
        if within is None or place.shape_in(within.shape) != stored.shape:
            found = "has no such tensor" if within is None else f"holds {place.shape_in(within.shape)}"
            raise MinitronError(f"{name} of {checkpoint.folder} must be {stored.shape} in the model, which {found}")
        parts.setdefault(id(within), []).append((stored, place))
    for name, tensor in state.items():
        if sum(stored.numel for stored, _ in parts.get(id(tensor), [])) != tensor.numel():
            raise MinitronError(f"{checkpoint.folder} must hold the whole model, it lacks {name} or a part of it")
    return parts


def _read_part(stored: StoredTensor, run: range, tensor: torch.Tensor, buffer: torch.Tensor) -> None:
    own = _rows_of(tensor, _rank_in(tensor))
    if both := _overlap(run, own):
        held = _held(tensor).view(-1)[_slice(_inside(both, own))]
        read_run(stored, _inside(both, run), out=held, buffer=buffer)


def gathered(tensor: torch.Tensor, run: range) -> Iterator[torch.Tensor]:
    """A run of a tensor's elements in order, in flat pieces of at most 64 MiB, whoever of the processes holds them.

    All processes that hold shards of the tensor must ask for the same runs in the same order and take all pieces. The
    first process is given the whole run, the others what passes by.
    """
    most = PIECE_BYTES // tensor.itemsize
    for owner in range(_number_in(tensor)):
        own = _rows_of(tensor, owner)
        both = _overlap(run, own)
        for start in range(both.start, both.stop, most):
            piece = range(start, min(start + most, both.stop))
            if owner == _rank_in(tensor):
                sent = _held(tensor).reshape(-1)[_slice(_inside(piece, own))]
            elif owner == 0:
                continue  # has it already
            else:
                sent = torch.empty(len(piece), dtype=tensor.dtype, device=tensor.device)
            if isinstance(tensor, DTensor) and owner != 0:
                distributed.broadcast(sent, group=tensor.device_mesh.get_group(), group_src=owner)
            yield sent


def _without_numbers(tensor: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    made = torch.empty(_held(tensor).shape, dtype=dtype, device=device)
    if isinstance(tensor, DTensor):
        mesh, placements = tensor.device_mesh, tensor.placements
        made = DTensor.from_local(made, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride())
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _held(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor, sharing its memory."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()


def _rows_of(tensor: torch.Tensor, rank: int) -> range:
    """The elements that a process holds of a tensor: all, or of one in shards those of its rows."""
    if not isinstance(tensor, DTensor):
        return range(tensor.numel())
    assert tensor.placements == (Shard(0),), f"shards must be rows, got {tensor.placements}"
    # FSDP2 cuts as torch.chunk does: equal numbers of rows, and of what is left over less or none for the last ones.
    rows = len(tensor)
    most = -(-rows // tensor.device_mesh.size())
    width = tensor.numel() // rows
    return range(min(rank * most, rows) * width, min((rank + 1) * most, rows) * width)


def _rank_in(tensor: torch.Tensor) -> int:
    return tensor.device_mesh.get_local_rank() if isinstance(tensor, DTensor) else 0


def _number_in(tensor: torch.Tensor) -> int:
    return tensor.device_mesh.size() if isinstance(tensor, DTensor) else 1


def _overlap(one: range, other: range) -> range:
    start = max(one.start, other.start)
    return range(start, max(start, min(one.stop, other.stop)))


def _inside(part: range, whole: range) -> range:
    return range(part.start - whole.start, part.stop - whole.start)


def _slice(run: range) -> slice:
    return slice(run.start, run.stop)
