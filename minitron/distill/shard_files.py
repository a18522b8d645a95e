"""Reads torch's distributed checkpoints, whose index is a pickle, without running what a stranger put into it.

torch 2.13 unpickles `.metadata`, and every value that is no tensor, without a bound: whoever writes such a folder runs
code on who resumes from it. Here an index may name the classes that it is made of, and a value may be a plain one.
Source: torch/distributed/checkpoint, filesystem.py:FileSystemReader and default_planner.py:DefaultLoadPlanner.
"""

import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load

from minitron.errors import MinitronError

INDEX_FILE = ".metadata"
_SHARD_NAME = re.compile(r"[\w-]+\.distcp")
_METADATA, _FILES = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"
# What an index is made of, by module; beside it dtypes of torch, such as float32.
_CLASSES = {
    _METADATA: (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    _FILES: ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "pathlib": ("PosixPath", "WindowsPath"),
}


def load_state(state: dict[str, Any], folder: Path) -> None:
    """Reads a distributed checkpoint into a state of tensors and plain values, in place.

    Raises:
        MinitronError: The folder holds no such checkpoint, one of another model, or one that names code.
    """
    try:
        load(state, storage_reader=_Reader(folder), planner=_Planner())
    except CheckpointException as error:  # torch gathers what processes trip over, whatever it is
        first = next(iter(error.failures.values()))[0]
        if isinstance(first, MinitronError):
            raise first from error
        reason = f"{type(first).__name__}: {first}"
        raise MinitronError(f"a sharded state must be whole and of this model, {folder} is not: {reason}") from error


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _CLASSES.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype)):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of an index")


class _Reader(FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / INDEX_FILE
        try:
            metadata = _IndexUnpickler(io.BytesIO(path.read_bytes())).load()
        except FileNotFoundError as error:
            raise MinitronError(f"a sharded state must have an index, {path} is not there") from error
        except Exception as error:  # a damaged pickle raises whatever it trips over
            raise MinitronError(f"the index of a sharded state must be whole, {path} is not: {error}") from error
        files = getattr(metadata, "storage_data", None)
        if not isinstance(metadata, Metadata) or not isinstance(files, dict):
            raise MinitronError(f"the index of a sharded state must be torch's, {path} is not")
        for place in files.values():
            name = getattr(place, "relative_path", None)
            if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
                raise MinitronError(f"the index of a sharded state must name files beside it, {path} names {name!r}")
        if not isinstance(metadata.storage_meta, StorageMeta):
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Planner(DefaultLoadPlanner):
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        # torch's own reads any pickle; what is read here is written again as the plain value that it must be.
        plain = torch.load(value, weights_only=True)
        written = io.BytesIO()
        torch.save(plain, written)
        written.seek(0)
        super().load_bytes(read_item, written)
