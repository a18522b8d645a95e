"""Stored tensors, or rows of them, read as fp32 through a small buffer.

Mapped files are not used here: their pages count as the process's memory, and a model larger than memory is read whole
once or many times. Only numpy is used for the conversion, since torch's operations would start a second team of
threads beside the one that computes.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from minitron.checkpoints.headers import StoredTensor
from minitron.checkpoints.rounding import widen
from minitron.dtypes import FLOAT_VIEWS, STORED_BYTES
from minitron.errors import CheckpointError
from minitron.units import MIB

BUFFER_BYTES = 8 * MIB
Fp32 = npt.NDArray[np.float32]


def read_fp32(stored: StoredTensor, *, first: int = 0, count: int | None = None) -> Fp32:
    """Rows `first` to `first + count` (all when None) of a stored tensor, converted to fp32.

    Beside the result no more than a buffer of 8 MiB is held.

    Raises:
        CheckpointError: The tensor is not of floating point, or the file ends before the tensor does.
    """
    if stored.dtype not in FLOAT_VIEWS:
        raise CheckpointError(
            f"a tensor must be one of {', '.join(FLOAT_VIEWS)} to be computed with, got {stored.dtype}"
        )
    row = math.prod(stored.shape[1:])
    rows = stored.shape[0] - first if count is None else count
    if not 0 <= first <= first + rows <= stored.shape[0]:
        raise CheckpointError(f"rows must be among the tensor's {stored.shape[0]}, got {first} to {first + rows - 1}")
    result: Fp32 = np.empty((rows, *stored.shape[1:]), dtype=np.float32)
    flat = result.reshape(-1)
    width = STORED_BYTES[stored.dtype]
    buffer = np.empty(BUFFER_BYTES // width, dtype=FLOAT_VIEWS[stored.dtype])
    with stored.file.open("rb", buffering=0) as file:
        file.seek(stored.start + first * row * width)
        for begin in range(0, len(flat), len(buffer)):
            part = flat[begin : begin + len(buffer)]
            source = buffer[: len(part)]
            fill(file, source)
            widen(source, stored.dtype, out=part)
    return result


def fill(file: Any, source: npt.NDArray[Any]) -> None:
    """Reads an array's bytes from a file's position on, into the array.

    Raises:
        CheckpointError: The file ends before that.
    """
    view = source.view(np.uint8).data
    filled = 0
    while filled < len(view):
        read = file.readinto(view[filled:])
        if not read:
            raise CheckpointError(f"{file.name} ends before its tensors do; it changed while it was read")
        filled += read
