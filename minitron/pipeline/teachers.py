"""Teachers as a recipe asks for them, each stage's with the text that it goes with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minitron.distill.dataset import PackedSequences
from minitron.distill.teachers.teacher import Teacher
from minitron.distributed import Ranks
from minitron.errors import MinitronError
from minitron.pipeline.stages.cache import cache_folder, open_cache
from minitron.pipeline.training import layerwise_teacher, online_teacher, packed_text, rank_device
from minitron.recipe.distill import DistillSection
from minitron.recipe.recipe import Recipe

OpenTeacher = Callable[[int, DistillSection, Path], tuple[PackedSequences, Teacher]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """Where a teacher's signal comes from.

    Attributes:
        folder: The teacher's checkpoint.
        cache: Folder of the caches that were written beforehand, where there are any.
    """

    folder: Path
    cache: Path | None = None


def open_teachers(recipe: Recipe, section: DistillSection, taught: Taught, ranks: Ranks) -> OpenTeacher:
    """Gives a function: a stage's position, section and folder for its packed text in; the text and its teacher out.

    An online teacher is loaded once, whatever the number of stages.

    Raises:
        MinitronError: A teacher that is read layer by layer is asked for in several processes.
    """
    mode = section.teacher.mode
    if mode == "layerwise" and ranks.world_size > 1:
        raise MinitronError("a layerwise teacher takes one process; in several use a cached or an online one")
    online: list[Teacher] = []

    def open_teacher(position: int, stage: DistillSection, state: Path) -> tuple[PackedSequences, Teacher]:
        if mode == "cached":
            assert taught.cache is not None
            return open_cache(cache_folder(taught.cache, position), stage, device=rank_device(ranks, recipe.device))
        sequences_NT = packed_text(
            stage, taught.folder, state / f"stage-{position + 1}.tokens", seed=recipe.seed, ranks=ranks
        )
        if mode == "layerwise":
            return sequences_NT, layerwise_teacher(taught.folder, stage, sequences_NT, ranks, device=recipe.device)
        if not online:
            online.append(
                online_teacher(taught.folder, stage, ranks, device=recipe.device, sharded=stage.sharding == "fsdp2")
            )
        return sequences_NT, online[0]

    return open_teacher
