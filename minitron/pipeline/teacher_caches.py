"""Caches of a teacher's logits, one for each phase of the distillation: their folders, and opening them."""

from pathlib import Path

from minitron.data.masks import PackedSequences
from minitron.data.sequence_file import open_sequence_file
from minitron.distill.teachers.cache_file import open_teacher_cache
from minitron.distill.teachers.cached import CachedTeacher
from minitron.distill.teachers.teacher import Teacher
from minitron.recipe.distill import DistillSection

SEQUENCES_FILE = "text.tokens"
CACHE_FOLDER = "cache"


def phase_folder(folder: Path, position: int) -> Path:
    """Folder of a phase's text and cache, by its position in the curriculum."""
    return folder / f"phase-{position + 1}"


def open_cache(folder: Path, phase: DistillSection, *, device: str) -> tuple[PackedSequences, Teacher]:
    """A phase's text and the teacher that was cached on it.

    Raises:
        MinitronError: There is no whole cache, or it is one of another temperature.
    """
    cache = open_teacher_cache(folder / CACHE_FOLDER)
    teacher = CachedTeacher(cache, temperature=phase.loss.temperature, device=device)
    return open_sequence_file(folder / SEQUENCES_FILE), teacher
