"""Plans safetensors shards before a byte is written: which tensor lies in which file, every header and offset."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.json_files import JsonObject
from minitron.checkpoints.headers import SINGLE_FILE, StoredTensor
from minitron.dtypes import STORED_BYTES

# What a tensor is to be: its safetensors dtype and its shape.
Described = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedShard:
    """A file to be written: its name, all that stands before its tensors, and the tensors one after the other.

    Attributes:
        name: Name of the file, without a folder.
        head: The header with its length.
        tensors: Name -> where the tensor will lie, in the order of the file.
        names: What the file calls them, in the same order.
    """

    name: str
    head: bytes
    tensors: Mapping[str, StoredTensor]
    names: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self.head) + sum(tensor.nbytes for tensor in self.tensors.values())


def plan_shards(
    tensors: Mapping[str, Described], *, shard_bytes: int, spell: Callable[[str], str] = str
) -> list[PlannedShard]:
    """Places tensors, in their order, in files of at most `shard_bytes` of tensors.

    A larger tensor makes a file of its own. A single file is named `model.safetensors`.

    Args:
        tensors: Name -> safetensors dtype and shape.
        shard_bytes: Most bytes of tensors in a file.
        spell: Name -> what the files call it.

    >>> [list(shard.tensors) for shard in plan_shards({"a": ("F32", (2,)), "b": ("BF16", (3,))}, shard_bytes=12)]
    [['a'], ['b']]
    """
    groups = list(_grouped(tensors, shard_bytes))
    return [
        _place(
            SINGLE_FILE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors",
            {name: tensors[name] for name in group},
            spell,
        )
        for number, group in enumerate(groups, start=1)
    ]


def shard_index(shards: Sequence[PlannedShard]) -> JsonObject:
    """The content of `model.safetensors.index.json` over several shards."""
    tensors = [tensor for shard in shards for tensor in shard.tensors.values()]
    return {
        "metadata": {
            "total_parameters": sum(tensor.numel for tensor in tensors),
            "total_size": sum(tensor.nbytes for tensor in tensors),
        },
        "weight_map": {name: shard.name for shard in shards for name in shard.names},
    }


def _grouped(tensors: Mapping[str, Described], shard_bytes: int) -> Iterator[list[str]]:
    group: list[str] = []
    filled = 0
    for name, described in tensors.items():
        nbytes = _nbytes(described)
        if group and filled + nbytes > shard_bytes:
            yield group
            group, filled = [], 0
        group.append(name)
        filled += nbytes
    yield group


def _place(file: str, group: Mapping[str, Described], spell: Callable[[str], str]) -> PlannedShard:
    # Wide dtypes first, so that every tensor is aligned to its own width.
    ordered = sorted(group.items(), key=lambda item: -STORED_BYTES[item[1][0]])
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets, offset = {}, 0
    for name, (dtype, shape) in ordered:
        offsets[name], end = offset, offset + _nbytes((dtype, shape))
        header[spell(name)] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    placed = {
        name: StoredTensor(file=Path(file), dtype=dtype, shape=shape, start=len(head) + offsets[name])
        for name, (dtype, shape) in ordered
    }
    return PlannedShard(name=file, head=head, tensors=placed, names=tuple(spell(name) for name, _ in ordered))


def _nbytes(described: Described) -> int:
    dtype, shape = described
    return math.prod(shape) * STORED_BYTES[dtype]
