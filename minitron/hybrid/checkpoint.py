"""What a checkpoint folder holds, read from its headers alone and checked whole before anyone trusts it.

The safetensors layout (8-byte little-endian header length, JSON header, tensor bytes) is read here directly, so that
a model of any size opens in milliseconds and without torch. Source: the format section of the safetensors README.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from minitron.hybrid.axes import tensor_shape
from minitron.hybrid.config import read_config, shape_from_config
from minitron.hybrid.quantised import PACKED_ROWS, is_packed, quantised_format, scale_names
from minitron.hybrid.shape import HybridShape

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# Weight and code-repository files: everything else in a folder (tokenizer, templates) is carried along as it is.
WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".gguf")
DTYPE_BYTES = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I8": 1,
    "U8": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor as a header describes it: its file, safetensors dtype name, shape, and first byte in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        numel = 1
        for size in self.shape:
            numel *= size
        return numel


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint folder.

    Attributes:
        folder: Where it lies.
        config: Its `config.json`, as it stands.
        shape: The shape that the configuration describes and the tensors agree with.
        tensors: Name on disk -> stored tensor, of the tensors that the family declares.
        ignored: Names of stored tensors that readers of the family leave out (multi-token prediction heads).
        weights_format: Precision that the blocks' matrices are quantised to; None where they are not.
        scales: Name on disk -> stored scale of a quantised weight.
    """

    folder: Path
    config: Mapping[str, Any]
    shape: HybridShape
    tensors: Mapping[str, StoredTensor]
    ignored: tuple[str, ...]
    weights_format: str | None = None
    scales: Mapping[str, StoredTensor] = field(default_factory=dict)

    @property
    def params(self) -> int:
        """Parameters counted from the headers, scales left out."""
        return sum(
            tensor.numel * (PACKED_ROWS if is_packed(self.weights_format, tensor.dtype) else 1)
            for tensor in self.tensors.values()
        )

    @property
    def weights_bytes(self) -> int:
        """Bytes of the declared tensors and their scales as stored."""
        stored = (*self.tensors.values(), *self.scales.values())
        return sum(tensor.numel * DTYPE_BYTES[tensor.dtype] for tensor in stored)


def open_checkpoint(folder: Path, *, quantised: bool = False) -> Checkpoint:
    """Opens a checkpoint folder (one safetensors file, or shards with an index) and checks it.

    Args:
        folder: The folder.
        quantised: Take a quantised one, too, whose stored numbers mean nothing without their scales.

    Raises:
        ValueError: Anything is missing, truncated, outside the folder, or at odds with the configuration.
    """
    if not folder.is_dir():
        raise ValueError(f"checkpoint folder not found: {folder}")
    config = read_config(folder)
    shape = shape_from_config(config)
    weights_format = quantised_format(config)
    if weights_format is not None and not quantised:
        raise ValueError(
            f"the weights must not be quantised here, those of {folder} are {weights_format}; give the checkpoint it "
            "was made from"
        )
    stored = _read_headers(folder)
    scales = scale_names(stored) if weights_format is not None else frozenset()
    prefixes = shape.family.ignored_tensors
    ignored = tuple(sorted(name for name in stored if name.startswith(prefixes)))
    tensors = {name: tensor for name, tensor in stored.items() if name not in {*ignored, *scales}}
    _check_against_shape(folder, tensors, shape, weights_format)
    return Checkpoint(
        folder=folder,
        config=config,
        shape=shape,
        tensors=tensors,
        ignored=ignored,
        weights_format=weights_format,
        scales={name: stored[name] for name in sorted(scales)},
    )


def carried_files(folder: Path) -> list[Path]:
    """The files that pruning carries along unchanged: tokenizer, templates, generation config."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.endswith(WEIGHT_SUFFIXES) and path.name not in ("config.json", "README.md")
    )


def checkpoint_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of a checkpoint's model (weights and configuration) and of its other files (the tokenizer's).

    Each covers the names and contents of its files; the model card counts for nothing.
    """
    others = carried_files(folder)
    names = sorted(path for path in folder.iterdir() if path.is_file() and path.name != "README.md")
    model = [path for path in names if path not in others]
    return {"model": _hash_files(model), "tokenizer": _hash_files(others)}


def file_hash(path: Path) -> str:
    """SHA-256 of a file's contents, computed once as long as its size and time of change stay.

    Raises:
        ValueError: There is no such file.
    """
    if not path.is_file():
        raise ValueError(f"data file not found: {path}")
    status = path.stat()
    return _hash_content(path, status.st_size, status.st_mtime_ns)


@cache
def _hash_content(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + bytes.fromhex(file_hash(path)))
    return digest.hexdigest()


def _read_headers(folder: Path) -> dict[str, StoredTensor]:
    index = folder / INDEX_FILE
    if not index.exists():
        if not (folder / SINGLE_FILE).is_file():
            raise ValueError(f"a checkpoint must hold {SINGLE_FILE} or {INDEX_FILE}, {folder} has neither")
        return _read_header(folder / SINGLE_FILE)
    if (folder / SINGLE_FILE).exists():
        raise ValueError(f"a checkpoint must hold either {SINGLE_FILE} or {INDEX_FILE}, {folder} has both")
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{index} must be a JSON object with a weight_map") from error
    stored: dict[str, StoredTensor] = {}
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file:
            raise ValueError(f"{index} must name files in its own folder, got {file!r}")
        stored |= _read_header(folder / file)
    missing = sorted(set(weight_map) ^ set(stored))
    if missing:
        raise ValueError(
            f"the index and the shards of {folder} must list the same tensors, they differ in {missing[0]}"
        )
    return stored


def _read_header(path: Path) -> dict[str, StoredTensor]:
    if not path.is_file():
        raise ValueError(f"checkpoint file not found: {path}")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{path} is truncated: its header alone needs {8 + length:,} bytes, it has {size:,}")
        try:
            header = json.loads(file.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a safetensors file: its header is not JSON") from error
    header.pop("__metadata__", None)
    stored, end = {}, 0
    for name, entry in header.items():
        if entry["dtype"] not in DTYPE_BYTES:
            raise ValueError(f"dtype of {name} in {path} must be one of {', '.join(DTYPE_BYTES)}, got {entry['dtype']}")
        start, stop = entry["data_offsets"]
        tensor = StoredTensor(file=path, dtype=entry["dtype"], shape=tuple(entry["shape"]), start=8 + length + start)
        if stop - start != tensor.numel * DTYPE_BYTES[tensor.dtype]:
            raise ValueError(f"the header of {path} must give {name} the bytes of its shape, it gives {stop - start:,}")
        stored[name], end = tensor, max(end, stop)
    if size != 8 + length + end:
        fault = "truncated" if size < 8 + length + end else "too long"
        raise ValueError(f"{path} is {fault}: its header promises {8 + length + end:,} bytes, it has {size:,}")
    return stored


def _check_against_shape(
    folder: Path, tensors: Mapping[str, StoredTensor], shape: HybridShape, weights_format: str | None
) -> None:
    specs = shape.tensors()
    missing = sorted(set(specs) - set(tensors))
    unknown = sorted(set(tensors) - set(specs))
    for fault, names in (("lacks", missing), ("holds the undeclared", unknown)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"tensors must be those of the configuration, {folder} {fault} {names[0]}{more}")
    for name, spec in specs.items():
        declared = tensor_shape(spec, shape.sizes)
        if is_packed(weights_format, tensors[name].dtype):
            declared = (declared[0] // PACKED_ROWS, *declared[1:])
        if tensors[name].shape != declared:
            raise ValueError(
                f"{name} must have the shape {declared} that the configuration implies, "
                f"{tensors[name].file} stores {tensors[name].shape}"
            )
