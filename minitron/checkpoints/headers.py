"""Reads the headers of safetensors files and their index, without torch, as untrusted input.

The safetensors layout (8-byte little-endian header length, JSON header, tensor bytes) is read here directly, so that
a model of any size opens in milliseconds. What the format demands of a header (length limit, tensors that cover the
bytes without gap or overlap, no key twice) is demanded here too. Source: the format section of the safetensors README.
"""

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.json_files import JsonFaultError, JsonObject, parse_object
from minitron.checkpoints.pickled import no_weights
from minitron.dtypes import STORED_BYTES
from minitron.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SUFFIX = ".safetensors"
MAX_HEADER_BYTES = 100_000_000
MAX_NAME_BYTES = 255

logger = logging.getLogger(__name__)


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
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.numel * STORED_BYTES[self.dtype]


def read_headers(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a folder's `model.safetensors`, or of the shards that its index names.

    Files may be links, to wherever their owner put them, as in the Hugging Face cache. A name inside the index is not
    the user's word: it must be that of a file in the folder. The single file goes before an index, as in transformers.

    Raises:
        CheckpointError: A file is missing, truncated or not what the format demands, or the index names a file outside
            the folder or disagrees with the shards.
    """
    index = folder / INDEX_FILE
    if (folder / SINGLE_FILE).is_file():
        if index.is_file():
            _tell_of_index(folder, read_index(index))
        return read_header(folder / SINGLE_FILE)
    if not index.exists():
        raise no_weights(folder, expected=f"{SINGLE_FILE} or {INDEX_FILE}")
    weight_map = read_index(index)
    stored: dict[str, StoredTensor] = {}
    for file in sorted(set(weight_map.values())):
        shard = read_header(folder / file)
        twice = sorted(stored.keys() & shard.keys())
        if twice:
            first = stored[twice[0]].file.name
            raise CheckpointError(
                f"a tensor must lie in one shard of {folder}, {twice[0]!r} lies in {first} and {file}"
            )
        stored |= shard
    differing = sorted(weight_map.keys() ^ stored.keys())
    if differing:
        raise CheckpointError(
            f"the index and the shards of {folder} must list the same tensors, they differ in {differing[0]!r}"
        )
    for name, file in weight_map.items():
        if stored[name].file.name != file:
            raise CheckpointError(
                f"{index} must name the shard that holds {name!r}, it names {file}, not {stored[name].file.name}"
            )
    return stored


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, by name.

    Raises:
        CheckpointError: The file is missing, truncated, too long, or its header is not what the format demands.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint file not found: {path}")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"the header of {path} must have at most {MAX_HEADER_BYTES:,} bytes, it claims {length:,}"
            )
        if size < 8 or length > size - 8:
            raise CheckpointError(f"{path} is truncated: its header alone needs {8 + length:,} bytes, it has {size:,}")
        header = _parse(file.read(length), f"{path} is not a safetensors file: its header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"__metadata__ in the header of {path} must hold text alone, got {_short(metadata)}")
    ends: dict[str, tuple[int, int]] = {}
    stored: dict[str, StoredTensor] = {}
    for name, entry in header.items():
        dtype, shape, ends[name] = _read_entry(path, name, entry)
        stored[name] = StoredTensor(file=path, dtype=dtype, shape=shape, start=8 + length + ends[name][0])
    _check_covered(path, ends)
    promised = 8 + length + max((stop for _, stop in ends.values()), default=0)
    if size != promised:
        fault = "truncated" if size < promised else "too long"
        raise CheckpointError(f"{path} is {fault}: its header promises {promised:,} bytes, it has {size:,}")
    return stored


def _read_entry(path: Path, name: str, entry: object) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    where = f"{name!r} in the header of {path}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise CheckpointError(f"{where} must have dtype, shape and data_offsets, it is {_short(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in STORED_BYTES:
        raise CheckpointError(f"dtype of {where} must be one of {', '.join(STORED_BYTES)}, got {_short(dtype)}")
    if not _are_counts(shape):
        raise CheckpointError(f"shape of {where} must be a list of whole numbers from 0 on, got {_short(shape)}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"data_offsets of {where} must be two ascending whole numbers, got {_short(offsets)}")
    start, stop = offsets
    if stop - start != math.prod(shape) * STORED_BYTES[dtype]:
        raise CheckpointError(
            f"the header of {path} must give {name!r} the bytes of its shape, it gives {stop - start:,}"
        )
    return dtype, tuple(shape), (start, stop)


def _check_covered(path: Path, ends: Mapping[str, tuple[int, int]]) -> None:
    end = 0
    for name, (start, stop) in sorted(ends.items(), key=lambda item: item[1]):
        if start != end:
            fault = "overlap" if start < end else "leave a gap"
            raise CheckpointError(
                f"tensors in the header of {path} must follow each other without gap or overlap, they {fault} "
                f"at {name!r}: it starts at {start:,}, the one before ends at {end:,}"
            )
        end = stop


def read_index(path: Path) -> dict[str, str]:
    """Name of each tensor -> the file beside the index that holds it.

    Raises:
        CheckpointError: It is no index, or names a file outside its folder.
    """
    index = _parse(path.read_bytes(), f"{path} must be a JSON object with a weight_map, it")
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} must be a JSON object with a weight_map, it holds {_short(weight_map)} there")
    named: dict[str, str] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _is_plain_name(file):
            raise CheckpointError(f"{path} must name files in its own folder that end in {SUFFIX}, got {_short(file)}")
        named[name] = file
    return named


def _tell_of_index(folder: Path, weight_map: Mapping[str, str]) -> None:
    # Converters leave an index that names the one file; transformers takes that file whatever the index says.
    others = sorted(set(weight_map.values()) - {SINGLE_FILE})
    if others:
        logger.warning(
            "%s: %s is read, as transformers does, and not %s, which its index names", folder, SINGLE_FILE, others[0]
        )


def _is_plain_name(file: str) -> bool:
    return (
        file.isprintable()
        and not set(file) & {"/", "\\"}
        and file.endswith(SUFFIX)
        and len(os.fsencode(file)) <= MAX_NAME_BYTES
    )


def _parse(content: bytes, subject: str) -> JsonObject:
    try:
        return parse_object(content)
    except JsonFaultError as error:
        raise CheckpointError(f"{subject} {error}") from error


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
