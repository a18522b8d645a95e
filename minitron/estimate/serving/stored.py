"""What a checkpoint's weights take: as they are stored, scales included, or as a configuration says."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from minitron.artifacts.json_files import read_json
from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.checkpoints.headers import INDEX_FILE, read_headers
from minitron.checkpoints.quantization import Quantization, config_dtype, find_quantization
from minitron.dtypes import StoredDtype, find_dtype
from minitron.errors import ArtifactError
from minitron.models.shape import HybridShape

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeights:
    """Weights as they are stored.

    Attributes:
        nbytes: Their bytes; None where only a configuration is known, and they are counted by the format.
        dtype: Gives their number format, the nearest one of the memory model.
        quantization: How they are quantized; None where they are not.
    """

    nbytes: int | None
    dtype: Callable[[], str]
    quantization: Quantization | None


def stored_weights(model: Path, config: Mapping[str, Any], shape: HybridShape) -> StoredWeights:
    """What a checkpoint folder holds, or what a `config.json` and small files beside it say.

    Raises:
        CheckpointError: A folder's files are malformed or at odds with the configuration.
    """
    folder = model if model.is_dir() else model.parent
    quantization = find_quantization(config, folder)

    def said() -> str:
        return config_dtype(config, quantization)

    if not model.is_dir():
        indexed = None if quantization is None else _indexed_bytes(folder, shape)
        return StoredWeights(nbytes=indexed, dtype=said, quantization=quantization)
    if quantization is not None and quantization.layout is None:
        nbytes = _all_bytes(folder, shape)
        logger.warning("%s: %s, whose tensors are counted and not checked", folder, quantization.method)
        # Speed alone is by the format, so one that is not known counts as 8 bits.
        return StoredWeights(
            nbytes=nbytes, dtype=lambda: "fp8" if quantization.nearest is None else said(), quantization=quantization
        )
    checkpoint = open_checkpoint(model, quantized=True)
    return StoredWeights(
        nbytes=checkpoint.weights_bytes, dtype=lambda: _stored_dtype(checkpoint), quantization=quantization
    )


def _all_bytes(folder: Path, shape: HybridShape) -> int:
    beside = shape.family.extra_prefix
    tensors = read_headers(folder).items()
    return sum(stored.nbytes for name, stored in tensors if not (beside and name.startswith(beside)))


def _indexed_bytes(folder: Path, shape: HybridShape) -> int | None:
    """What the index beside a configuration says that all files take, where that can be true."""
    if not (folder / INDEX_FILE).is_file():
        return None
    try:
        metadata = read_json(folder / INDEX_FILE).get("metadata")
    except ArtifactError:
        return None
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    # No format takes less than four bits a parameter, or more than four bytes.
    return total if isinstance(total, int) and shape.params <= 2 * total <= 8 * shape.params else None


def _stored_dtype(checkpoint: Checkpoint) -> str:
    """Number format of a folder's weights; bf16 where they are mixed, since their bytes are known all the same."""
    if checkpoint.weights_format is not None:
        return checkpoint.weights_format
    found = {find_dtype(tensor.dtype) for tensor in checkpoint.tensors.values()}
    name = found.pop() if len(found) == 1 else None
    return name if name is not None and name in get_args(StoredDtype) else "bf16"
