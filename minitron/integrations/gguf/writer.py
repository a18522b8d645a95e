"""Writes a planned GGUF file, whole or not at all: its header by the package gguf, its tensors row by row behind it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minitron.artifacts.atomic import replacing
from minitron.artifacts.disk_space import require_room
from minitron.artifacts.locks import locked
from minitron.errors import ArtifactError
from minitron.integrations.gguf.family import Value
from minitron.integrations.gguf.tensors import GgufTensor, read_encoded
from minitron.progress import progress_bar

ALIGNMENT = 32  # bytes; what a file has that does not say another


def write_gguf(output: Path, architecture: str, metadata: Mapping[str, Value], tensors: list[GgufTensor]) -> int:
    """Writes the file and returns its bytes. Of a tensor, some rows at a time are held in memory.

    Args:
        output: The file, which must not be there.
        architecture: llama.cpp's name.
        metadata: Key -> value.
        tensors: What it holds, in order.

    Raises:
        ArtifactError: The file is there, another process writes it, or the disk has too little room.
        CheckpointError: A tensor cannot be read or encoded.
    """
    require_new_file(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    require_room(output.parent, sum(_padded(tensor.nbytes) for tensor in tensors), what="the GGUF file")
    with locked(output), replacing(output) as partial:
        require_new_file(output)
        _write_header(partial, architecture, metadata, tensors)
        with progress_bar(of_bytes=True) as progress, partial.open("ab", buffering=0) as file:
            task = progress.add_task("export", total=sum(tensor.nbytes for tensor in tensors))
            _write_all(file, bytes(-file.tell() % ALIGNMENT))
            for tensor in tensors:
                written = 0
                for chunk in read_encoded(tensor):
                    _write_all(file, chunk.reshape(-1).view(np.uint8).data)
                    written += chunk.nbytes
                    progress.advance(task, chunk.nbytes)
                assert written == tensor.nbytes, f"{tensor.name} has {written} bytes, {tensor.nbytes} were planned"
                _write_all(file, bytes(-written % ALIGNMENT))
            return file.tell()


def require_new_file(output: Path) -> None:
    """Refuses an output that is there, or that cannot be made.

    Raises:
        ArtifactError: It, or a file where one of its folders should be, exists.
    """
    if output.exists() or output.is_symlink():
        raise ArtifactError(f"the output must be a new file, {output} exists; remove it or choose another output")
    above = next(folder for folder in output.absolute().parents if folder.exists())
    if not above.is_dir():
        raise ArtifactError(f"the output must lie in a folder, {above} is a file")


def _write_header(path: Path, architecture: str, metadata: Mapping[str, Value], tensors: list[GgufTensor]) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        writer.add_key_value(key, value, *_kind(value))
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name,
            tensor.shape,
            np.dtype(np.float32),
            tensor.nbytes,
            raw_dtype=gguf.GGMLQuantizationType[tensor.type],
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _kind(value: Value) -> tuple[Any, ...]:
    from gguf import GGUFValueType

    kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
    if isinstance(value, list):
        text = isinstance(value[0], str)
        return GGUFValueType.ARRAY, GGUFValueType.STRING if text else GGUFValueType.INT32
    return (kinds.get(type(value), GGUFValueType.STRING),)


def _write_all(file: Any, content: Any) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _padded(nbytes: int) -> int:
    return nbytes + -nbytes % ALIGNMENT
