"""Which weight is not a number: asked when what a model computes is not."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.reading import read_fp32
from minitron.dtypes import FLOAT_VIEWS
from minitron.errors import CheckpointError, NotFiniteError
from minitron.units import MIB

ROWS_BYTES = 64 * MIB


def require_finite(checkpoint: Checkpoint) -> None:
    """Refuses a checkpoint with a weight that is NaN or infinite. All of its weights are read.

    Raises:
        CheckpointError: It has one; the message names the first such tensor.
    """
    for name, stored in checkpoint.tensors.items():
        if stored.dtype not in FLOAT_VIEWS or not stored.shape:
            continue
        step = max(1, ROWS_BYTES // (4 * max(1, math.prod(stored.shape[1:]))))
        found = 0
        for first in range(0, stored.shape[0], step):
            rows = read_fp32(stored, first=first, count=min(step, stored.shape[0] - first))
            found += int(rows.size - np.isfinite(rows).sum())
        if found:
            raise CheckpointError(
                f"weights must be finite numbers, {found:,} of {stored.numel:,} in {name} of {stored.file} are not; "
                "copy or save the checkpoint anew"
            )


@contextmanager
def naming_weights(*checkpoints: Checkpoint) -> Iterator[None]:
    """Where numbers that are not finite come out of a model, says which of its weights is not.

    Raises:
        CheckpointError: One of the checkpoints has such a weight.
        NotFiniteError: None has: the model overflows.
    """
    try:
        yield
    except NotFiniteError:
        for checkpoint in checkpoints:
            require_finite(checkpoint)
        raise
