"""Opens the teacher of each phase, with the packed text that it teaches on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.header import STATE_FOLDER
from minitron.data.masks import PackedSequences
from minitron.data.sequence_file import open_sequence_file
from minitron.distill.teachers.teacher import Teacher
from minitron.distill.training.validation import ValidationText
from minitron.errors import MinitronError
from minitron.pipeline.context import StageContext
from minitron.pipeline.teacher_caches import CACHE_FOLDER, SEQUENCES_FILE, VALIDATION_FOLDER, open_cache, phase_folder
from minitron.pipeline.training import PhaseText, layerwise_teacher, online_teacher, packed_text, validation_text
from minitron.recipe.distill import DistillSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """A phase's text with its teacher, to train on and to watch the training by."""

    sequences_NT: PackedSequences
    teacher: Teacher
    validation: ValidationText


OpenTeacher = Callable[[int, DistillSection], Lessons]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSource:
    """Where a teacher's logits come from.

    Attributes:
        folder: The teacher's checkpoint.
        caches: Folder of the caches that were written beforehand, where there are any.
    """

    folder: Path
    caches: Path | None = None


def open_teachers(context: StageContext, section: DistillSection, source: TeacherSource) -> OpenTeacher:
    """Gives a function: a phase's position and section in; its packed texts and its teacher out.

    An online teacher is loaded once, whatever the number of phases.

    Raises:
        MinitronError: A teacher that is read layer by layer is asked for in several processes.
    """
    mode, recipe, ranks = section.teacher.mode, context.recipe, context.ranks
    if mode == "layerwise" and ranks.world_size > 1:
        raise MinitronError("a layerwise teacher takes one process; in several use a cached or an online one")
    online: list[Teacher] = []

    def open_teacher(position: int, phase: DistillSection) -> Lessons:
        if mode == "cached":
            assert source.caches is not None
            watched_NT = validation_text(phase, source.folder, seed=recipe.seed, ranks=ranks)
            return _open_caches(phase_folder(source.caches, position), phase, watched_NT, device=context.device)
        path = context.output / STATE_FOLDER / f"phase-{position + 1}.tokens"
        text = packed_text(phase, source.folder, path, seed=recipe.seed, ranks=ranks)
        if mode == "layerwise":
            layerwise = layerwise_teacher(source.folder, phase, text.sequences_NT, device=context.device)
            return _lessons(text, layerwise, layerwise.on(text.validation_NT))
        if not online:
            sharded = phase.sharding == "fsdp2"
            online.append(online_teacher(source.folder, phase, ranks, device=recipe.device, sharded=sharded))
        return _lessons(text, online[0], online[0])

    return open_teacher


def _lessons(text: PhaseText, teacher: Teacher, watching: Teacher) -> Lessons:
    validation = ValidationText(sequences_NT=text.validation_NT, teacher=watching)
    return Lessons(sequences_NT=text.sequences_NT, teacher=teacher, validation=validation)


def _open_caches(folder: Path, phase: DistillSection, watched_NT: PackedSequences, *, device: str) -> Lessons:
    text = PhaseText(sequences_NT=open_sequence_file(folder / SEQUENCES_FILE), validation_NT=watched_NT)
    caches = (open_cache(folder / name, phase, device=device) for name in (CACHE_FOLDER, VALIDATION_FOLDER))
    return _lessons(text, *caches)
