"""Teacher + training text -> the teacher's best tokens, one cache for each stage of the distillation."""

from pathlib import Path
from typing import Any

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.sequence_file import open_sequence_file
from minitron.distill.dataset import PackedSequences
from minitron.distill.teachers.cache_file import open_teacher_cache
from minitron.distill.teachers.cache_writer import write_teacher_cache
from minitron.distill.teachers.cached import CachedTeacher
from minitron.distill.teachers.teacher import Teacher
from minitron.distributed import Ranks
from minitron.pipeline.run_folder import Folders
from minitron.pipeline.stages.correct import correct_origin
from minitron.pipeline.text import data_hashes
from minitron.pipeline.training import layerwise_teacher, online_teacher, packed_text, taught_by, teacher_origin
from minitron.recipe.distill import DistillSection
from minitron.recipe.recipe import Recipe

SEQUENCES_FILE = "text.tokens"
CACHE_FOLDER = "cache"
MOST_BLOCKS_AT_ONCE = 8  # unless the recipe says how many fit


def cache_origin(recipe: Recipe) -> dict[str, Any]:
    """Everything that the caches depend on: the teacher, each stage's text, what is kept; nothing of the student."""
    return {
        "teacher": teacher_origin(recipe),
        "corrected": correct_origin(recipe),
        "stages": [_stage_origin(stage) for stage in recipe.distill.curriculum],
    }


def _stage_origin(stage: DistillSection) -> dict[str, Any]:
    return {
        "data": data_hashes(stage.data),
        "tokens": stage.tokens,
        "seq_len": stage.seq_len,
        "temperature": stage.loss.temperature,
        "top_k": stage.teacher.top_k,
        "samples": stage.samples,
        "dtype": stage.teacher_dtype,
    }


def run_cache(recipe: Recipe, folders: Folders, output: Path) -> None:
    """Teacher + training text -> caches; goes on where it was interrupted."""
    ranks, folder = Ranks(recipe.device), taught_by(recipe, folders)
    vocab_size = open_checkpoint(folder).shape.vocab_size
    for position, stage in enumerate(recipe.distill.curriculum):
        own = cache_folder(output, position)
        sequences_NT = packed_text(stage, folder, own / SEQUENCES_FILE, seed=recipe.seed, ranks=ranks)
        write_teacher_cache(
            _teacher(folder, stage, sequences_NT, ranks, device=recipe.device),
            sequences_NT,
            own / CACHE_FOLDER,
            top_k=stage.teacher.top_k,
            samples=stage.samples,
            vocab_size=vocab_size,
            temperature=stage.loss.temperature,
            batch_size=stage.micro_batch_size or min(stage.batch_size, MOST_BLOCKS_AT_ONCE),
            made_from={"teacher": teacher_origin(recipe), **_stage_origin(stage)},
            ranks=ranks,
        )


def cache_folder(folder: Path, position: int) -> Path:
    """Where a stage's text and cache lie, by its place in the curriculum, whatever it is called."""
    return folder / f"stage-{position + 1}"


def open_cache(folder: Path, stage: DistillSection, *, device: str) -> tuple[PackedSequences, Teacher]:
    """A stage's text and the teacher that was cached on it.

    Raises:
        MinitronError: There is no whole cache, or it is one of another temperature.
    """
    cache = open_teacher_cache(folder / CACHE_FOLDER)
    return open_sequence_file(folder / SEQUENCES_FILE), CachedTeacher(
        cache, temperature=stage.loss.temperature, device=device
    )


def _teacher(
    folder: Path, stage: DistillSection, sequences_NT: PackedSequences, ranks: Ranks, *, device: str
) -> Teacher:
    if stage.teacher.layerwise:
        return layerwise_teacher(folder, stage, sequences_NT, ranks, device=device)
    return online_teacher(folder, stage, ranks, device=device, sharded=False)
