"""Names of tensors that transformers is told to rename as it loads a checkpoint, beside what it renames of itself."""

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.spellings import renamings


def key_mapping(checkpoint: Checkpoint) -> dict[str, str] | None:
    """Pattern -> replacement; None where transformers knows the names of the files."""
    spelling = checkpoint.spelling
    return renamings(checkpoint.shape.model_type) if spelling.on_disk and not spelling.in_memory else None
