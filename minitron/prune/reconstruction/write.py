"""Repaired weights written over the sliced ones of a checkpoint that nobody reads yet."""

import os
from collections.abc import Iterable

import numpy as np
import torch

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.errors import MinitronError
from minitron.runtime.dtypes import torch_dtype


def write_repaired(checkpoint: Checkpoint, weights: Iterable[tuple[str, torch.Tensor]]) -> int:
    """Writes weights at their places in the checkpoint's files, in their stored dtypes; how many were written.

    The files change in place, each weight synced before the next one is asked for, so the checkpoint must not be
    visible yet: a weight that is cut off while it is written is written again by the next attempt.

    Raises:
        MinitronError: A weight is not in the checkpoint, has another shape, or is not finite in its stored dtype.
    """
    written = 0
    for name, weight in weights:
        if name not in checkpoint.tensors:
            raise MinitronError(f"a repaired weight must be one of the checkpoint's tensors, {name} is not")
        stored = checkpoint.tensors[name]
        if tuple(weight.shape) != stored.shape:
            raise MinitronError(
                f"{name} must keep its shape {stored.shape}, the repaired one has {tuple(weight.shape)}"
            )
        rounded = weight.to(device="cpu", dtype=torch_dtype(stored.dtype)).contiguous()
        if not torch.isfinite(rounded).all():
            raise MinitronError(f"a repaired weight must be finite in its stored dtype {stored.dtype}, {name} is not")
        with stored.file.open("r+b") as file:
            file.seek(stored.start)
            file.write(np.ascontiguousarray(rounded.view(torch.uint8).numpy()).data)
            file.flush()
            os.fsync(file.fileno())
        written += 1
    return written
