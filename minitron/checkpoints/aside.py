"""Tensors of a checkpoint's files that are no part of the model as it is read: told, and left out."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from minitron.artifacts.hashes import file_hash
from minitron.checkpoints.headers import StoredTensor
from minitron.errors import CheckpointError
from minitron.models.families.family import Family
from minitron.models.shape import HybridShape

logger = logging.getLogger(__name__)


def left_out(folder: Path, stored: Mapping[str, StoredTensor], family: Family) -> set[str]:
    """Names of tensors that follow from the configuration, or that belong to parts beside the text model."""
    computed = {name for name in stored if name.endswith(family.computed)} if family.computed else set()
    if computed:
        logger.info("%s: %d tensors are left out, which follow from the configuration", folder, len(computed))
    beside = {name for name in stored if name.startswith(family.beside)} if family.beside else set()
    if beside:
        parts = ", ".join(sorted({re.sub(r"^((?:model\.)?\w+).*", r"\1", name) for name in beside}))
        logger.warning("%s: %d tensors of %s are left out: the text model is taken", folder, len(beside), parts)
    return computed | beside


def leave_out_tied_head(folder: Path, tensors: dict[str, StoredTensor], shape: HybridShape) -> None:
    """Takes a head out that is stored although the configuration ties it: it must be the embeddings again."""
    head = tensors.pop(shape.family.head, None)
    table = tensors.get(shape.head_tensor)
    if head is None or table is None:
        return
    if (head.dtype, head.shape) != (table.dtype, table.shape) or _content_hash(head) != _content_hash(table):
        # transformers 5.23 reads such a model as one with a head of its own.
        raise CheckpointError(
            f"tie_word_embeddings in config.json must be false where {shape.family.head} differs from "
            f"{shape.head_tensor}, as it does in {folder}"
        )
    logger.info("%s: %s is left out, since it is the embeddings again", folder, shape.family.head)


def _content_hash(stored: StoredTensor) -> str:
    return file_hash(stored.file, start=stored.start, nbytes=stored.nbytes)
