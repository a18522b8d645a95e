"""The one writer of safetensors shards: begun with their header, filled, synced, renamed into place, and indexed.

Pruning fills its shards by several threads at planned offsets (`streaming`); merging and saving in memory deliver their
tensors in order (`write_shards`).
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from minitron.artifacts.atomic import PARTIAL, put_in_place
from minitron.artifacts.disk_space import require_room
from minitron.artifacts.json_files import write_json
from minitron.checkpoints.headers import INDEX_FILE
from minitron.checkpoints.rounding import Raw
from minitron.checkpoints.writing.shard_plan import PlannedShard, shard_index


def begin_shard(folder: Path, shard: PlannedShard) -> Path:
    """Makes a shard's file with its header alone; its temporary name, under which its tensors are written."""
    partial = folder / (shard.name + PARTIAL)
    partial.write_bytes(shard.head)
    return partial


def finish_shard(folder: Path, shard: PlannedShard) -> None:
    """Syncs a shard whose tensors are written and gives it its name."""
    put_in_place(folder / (shard.name + PARTIAL), folder / shard.name)


def write_index(folder: Path, shards: Sequence[PlannedShard]) -> None:
    """Writes the index over several shards; a single one needs none."""
    if len(shards) > 1:
        write_json(folder / INDEX_FILE, shard_index(shards))


def write_shards(
    folder: Path, shards: Sequence[PlannedShard], chunks: Callable[[str], Iterable[Raw]], *, what: str
) -> None:
    """Writes planned shards one after the other, then their index.

    Args:
        folder: The checkpoint's folder.
        shards: The plan.
        chunks: Gives the bytes of a tensor by its name, in order, in arrays of any number format.
        what: What a line about too little disk space calls them.

    Raises:
        ArtifactError: The disk has too little room.
    """
    require_room(folder, sum(shard.nbytes for shard in shards), what=what)
    for shard in shards:
        with begin_shard(folder, shard).open("ab", buffering=0) as file:
            for name, stored in shard.tensors.items():
                written = 0
                for chunk in chunks(name):
                    left = chunk.reshape(-1).view(np.uint8).data
                    written += len(left)
                    while left:
                        left = left[file.write(left) :]
                assert written == stored.nbytes, f"{name} has {written} bytes, {stored.nbytes} were planned"
        finish_shard(folder, shard)
    write_index(folder, shards)
