"""Opens the teacher of each phase, with the packed text that it teaches on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.header import STATE_FOLDER
from minitron.data.masks import PackedSequences
from minitron.distill.teachers.teacher import Teacher
from minitron.errors import MinitronError
from minitron.pipeline.context import StageContext
from minitron.pipeline.teacher_caches import open_cache, phase_folder
from minitron.pipeline.training import layerwise_teacher, online_teacher, packed_text
from minitron.recipe.distill import DistillSection

OpenTeacher = Callable[[int, DistillSection], tuple[PackedSequences, Teacher]]


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
    """Gives a function: a phase's position and section in; its packed text and its teacher out.

    An online teacher is loaded once, whatever the number of phases.

    Raises:
        MinitronError: A teacher that is read layer by layer is asked for in several processes.
    """
    mode, recipe, ranks = section.teacher.mode, context.recipe, context.ranks
    if mode == "layerwise" and ranks.world_size > 1:
        raise MinitronError("a layerwise teacher takes one process; in several use a cached or an online one")
    online: list[Teacher] = []

    def open_teacher(position: int, phase: DistillSection) -> tuple[PackedSequences, Teacher]:
        if mode == "cached":
            assert source.caches is not None
            return open_cache(phase_folder(source.caches, position), phase, device=context.device)
        path = context.output / STATE_FOLDER / f"phase-{position + 1}.tokens"
        sequences_NT = packed_text(phase, source.folder, path, seed=recipe.seed, ranks=ranks)
        if mode == "layerwise":
            return sequences_NT, layerwise_teacher(source.folder, phase, sequences_NT, device=context.device)
        if not online:
            sharded = phase.sharding == "fsdp2"
            online.append(online_teacher(source.folder, phase, ranks, device=recipe.device, sharded=sharded))
        return sequences_NT, online[0]

    return open_teacher
