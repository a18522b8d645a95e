"""Caches of a teacher's logits, two for each phase of the distillation: their folders, and opening them."""

from pathlib import Path

from minitron.distill.teachers.cache_file import open_teacher_cache
from minitron.distill.teachers.cached import CachedTeacher
from minitron.distill.teachers.teacher import Teacher
from minitron.recipe.distill import DistillSection

SEQUENCES_FILE = "text.tokens"
CACHE_FOLDER = "cache"
VALIDATION_FOLDER = "validation"


def phase_folder(folder: Path, position: int) -> Path:
    """Folder of a phase's text and cache, by its position in the curriculum."""
    return folder / f"phase-{position + 1}"


def open_cache(folder: Path, phase: DistillSection, *, device: str) -> Teacher:
    """The teacher that was cached in a folder.

    Raises:
        MinitronError: There is no whole cache, or it is one of another temperature.
    """
    return CachedTeacher(open_teacher_cache(folder), temperature=phase.loss.temperature, device=device)
