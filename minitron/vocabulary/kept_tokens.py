"""The map from a cut vocabulary to the one it was cut from, in a file beside the weights."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from minitron.artifacts.atomic import write_text
from minitron.artifacts.json_files import read_record
from minitron.checkpoints.vocabulary import read_vocabulary, require_one_vocabulary
from minitron.errors import CheckpointError
from minitron.models.axes import Indices
from minitron.models.config import read_config, shape_from_config

MAP_FILE = "vocabulary_map.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTokens:
    """Which tokens a cut vocabulary has of the original one.

    Attributes:
        original_size: Rows of the original embeddings.
        original_ids: Original id of each id, in order.
    """

    original_size: int
    original_ids: tuple[int, ...]

    @property
    def indices(self) -> Indices:
        """The original ids as an array."""
        return np.asarray(self.original_ids, dtype=np.int64)


def write_kept_tokens(folder: Path, kept: Indices, vocab_size: int) -> None:
    """Writes the map of a cut into its checkpoint; of a vocabulary that was cut before, to the one cut first.

    Args:
        folder: The cut checkpoint, which may hold the map of its source.
        kept: The kept ids of the source.
        vocab_size: Rows of the source's embeddings.
    """
    before = read_kept_tokens(folder)
    ids, size = (kept, vocab_size) if before is None else (before.indices[kept], before.original_size)
    found = KeptTokens(original_size=size, original_ids=tuple(ids.tolist()))
    write_text(folder / MAP_FILE, json.dumps(asdict(found)) + "\n")


def read_kept_tokens(folder: Path) -> KeptTokens | None:
    """The map in a checkpoint folder; None where its vocabulary was never cut.

    Raises:
        ArtifactError: The file is not such a map.
    """
    path = folder / MAP_FILE
    return read_record(path, KeptTokens) if path.is_file() else None


def comparable_ids(teacher: Path, student: Path) -> Indices | None:
    """The teacher's ids of a student's tokens, where they were cut from the teacher's; None where both have the same.

    Args:
        teacher: A checkpoint folder.
        student: Another one.

    Raises:
        CheckpointError: An id stands for two tokens, or the student's vocabulary was cut from another one.
    """
    kept = read_kept_tokens(student)
    if kept is None or kept == read_kept_tokens(teacher):
        require_one_vocabulary(student, teacher)
        return None
    vocab_size = shape_from_config(read_config(teacher)).vocab_size
    before, after = read_vocabulary(teacher) or {}, read_vocabulary(student) or {}
    apart = [new for new, old in enumerate(kept.original_ids) if after.get(new) != before.get(old)]
    if kept.original_size != vocab_size or apart:
        differing = f", and {after.get(apart[0])!r} of {student} is not where it was" if apart else ""
        raise CheckpointError(
            f"a student of a cut vocabulary is compared with a teacher of the {kept.original_size} tokens that it was "
            f"cut from, {teacher} has {vocab_size}{differing}"
        )
    return kept.indices
