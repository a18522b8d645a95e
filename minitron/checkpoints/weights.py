"""Tensors in and out of checkpoint files, one at a time."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from minitron.artifacts.json_files import write_json
from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.headers import INDEX_FILE, SINGLE_FILE
from minitron.units import GIB

DEFAULT_SHARD_BYTES = 4 * GIB
READABLE = 0o644  # safetensors makes files that their owner alone can read


@contextmanager
def open_weights(checkpoint: Checkpoint) -> Iterator[Callable[[str], torch.Tensor]]:
    """Gives a function that reads one tensor or scale by its name on disk, in its stored dtype."""
    with ExitStack() as stack:
        files: dict[Path, Any] = {}

        def read(name: str) -> torch.Tensor:
            file = checkpoint.stored(name).file
            if file not in files:
                files[file] = stack.enter_context(safe_open(file, framework="pt"))
            tensor: torch.Tensor = files[file].get_tensor(name)
            return tensor

        yield read


def write_weights(
    folder: Path, tensors: Iterator[tuple[str, torch.Tensor]], *, shard_bytes: int = DEFAULT_SHARD_BYTES
) -> None:
    """Writes tensors into safetensors shards of at most `shard_bytes` (one larger tensor makes a shard of its own).

    At most one shard is held in memory. A single shard is named `model.safetensors`; several get an index.
    """
    shards: list[dict[str, int]] = []
    pending: dict[str, torch.Tensor] = {}
    for name, tensor in tensors:
        if pending and _bytes(pending) + tensor.nbytes > shard_bytes:
            shards.append(_write_shard(folder, len(shards), pending))
            pending = {}
        pending[name] = tensor
    shards.append(_write_shard(folder, len(shards), pending))
    if len(shards) == 1:
        (folder / _shard_name(0)).rename(folder / SINGLE_FILE)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / _shard_name(number)).rename(folder / file)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(size for shard in shards for size in shard.values())
    write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


def copy_files(files: list[Path], folder: Path) -> None:
    """Copies files into a folder under their own names and syncs them."""
    for file in files:
        shutil.copyfile(file, folder / file.name)
        with (folder / file.name).open("rb") as copied:
            os.fsync(copied.fileno())


def _write_shard(folder: Path, number: int, tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    path = folder / _shard_name(number)
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(READABLE)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {name: tensor.nbytes for name, tensor in tensors.items()}


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.partial"


def _bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
