"""Saving a loaded model as a checkpoint like the one that it came from."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from minitron.artifacts.json_files import write_json
from minitron.checkpoints.checkpoint import Checkpoint, carried_files, open_checkpoint
from minitron.checkpoints.places import model_places
from minitron.checkpoints.weights import DEFAULT_SHARD_BYTES, copy_files, open_weights, write_pieces
from minitron.checkpoints.writing.shard_plan import PlannedShard, plan_shards
from minitron.distributed import Ranks
from minitron.errors import CheckpointError
from minitron.runtime.dtypes import torch_dtype
from minitron.runtime.shards import gathered

logger = logging.getLogger(__name__)


def save_model(
    state: Mapping[str, torch.Tensor], template: Checkpoint, output: Path, ranks: Ranks | None = None
) -> Checkpoint:
    """Writes a model's state as a checkpoint like another one: its names on disk, dtypes, config and other files.

    Tensors in shards are gathered a piece at a time, so that no process holds the whole state.

    Args:
        state: Every tensor by its name in memory, whole or in shards.
        template: The other checkpoint.
        output: Folder of the new one.
        ranks: The processes of which the first one writes, and which all call it; this one alone when None.

    Raises:
        CheckpointError: The model's tensors are not those of the other checkpoint.
    """
    ranks = ranks or Ranks.alone()
    planned = {name: (stored.dtype, stored.shape) for name, stored in {**template.tensors, **template.extras}.items()}
    shards = plan_shards(planned, shard_bytes=DEFAULT_SHARD_BYTES, spell=template.name_to_write)
    pieces = _pieces_of(state, template)
    if ranks.is_main:
        _write(pieces, shards, template, output)
    else:
        for name in (name for shard in shards for name in shard.tensors if name in pieces):
            for _ in pieces[name]:
                pass
    ranks.barrier()
    return open_checkpoint(output)


def _pieces_of(state: Mapping[str, torch.Tensor], template: Checkpoint) -> dict[str, Iterator[torch.Tensor]]:
    """Name on disk -> the tensor's elements in flat pieces, not gathered before they are asked for."""
    pieces: dict[str, Iterator[torch.Tensor]] = {}
    for name, place in model_places(template.shape).items():
        found, expected = state.get(place.name), template.tensors[name].shape
        if found is None or place.shape_in(found.shape) != expected:
            have = "has none there" if found is None else f"has {place.shape_in(found.shape)}"
            raise CheckpointError(f"{name} must be of shape {expected} to be written, the model {have}")
        pieces[name] = gathered(found, place.run_in(found.shape))
    return pieces


def _write(
    pieces: Mapping[str, Iterator[torch.Tensor]], shards: Sequence[PlannedShard], template: Checkpoint, output: Path
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    if template.extras:
        logger.warning("%s: layers that predict further tokens are kept as they were, untrained", output)
    with open_weights(template) as read_stored:

        def planned_pieces(name: str) -> Iterator[torch.Tensor]:
            if name in template.extras:
                yield read_stored(name)
                return
            dtype = torch_dtype(template.tensors[name].dtype)
            for piece in pieces[name]:
                yield piece.to(device="cpu", dtype=dtype)

        write_pieces(output, shards, planned_pieces)
    copy_files(carried_files(template.folder), output)
    write_json(output / "config.json", template.config)
