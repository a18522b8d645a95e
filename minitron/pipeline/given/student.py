"""Distilling a checkpoint that a user gives as a recipe says, where a run would distill the one that it cut."""

from contextlib import nullcontext
from pathlib import Path

from minitron.artifacts.finished import finished_or_refused
from minitron.artifacts.header import hash_inputs
from minitron.artifacts.json_files import JsonObject
from minitron.artifacts.shared import hash_once, shared_artifact
from minitron.checkpoints.checkpoint import Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.checkpoints.vocabulary import require_one_vocabulary
from minitron.distributed import Ranks
from minitron.errors import MinitronError
from minitron.failures import failing_together
from minitron.pipeline import fingerprints
from minitron.pipeline.context import StageContext
from minitron.pipeline.recovery import Recovery, recover
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.runner import ARTIFACT_VERSION, run_pipeline, stage_inputs
from minitron.pipeline.sections import teaching_checkpoint, with_cut_teacher
from minitron.pipeline.stage_list import CACHE_STAGES
from minitron.pipeline.status import watched
from minitron.pipeline.teachers import TeacherSource
from minitron.pipeline.training import load_trained
from minitron.recipe.distill import DistillSection
from minitron.recipe.recipe import Recipe
from minitron.runtime.devices import resolve_device

STAGE = "distill"


def distill_given(recipe: Recipe, student: Path, folder: Path) -> Path:
    """Distills a checkpoint by a recipe's teacher and `distill` section; nothing is scored, searched or cut.

    What a recipe does to its teacher first (`prune.vocabulary`, `correct_teacher`, a cache) is done in `folder`, or
    taken where it is finished. An interrupted distillation is resumed; a finished one of the same inputs is taken.

    Args:
        recipe: A loaded recipe, whose teacher is a folder.
        student: The checkpoint that is trained; it stays as it is.
        folder: The run folder. One that holds a distillation of another student is refused.

    Returns:
        The distilled student's checkpoint folder.

    Raises:
        MinitronError: The recipe cannot be followed or asks for what takes the plan of a cut, the student is not a
            checkpoint with the teacher's vocabulary, or the folder holds a distillation of other inputs.
    """
    _require_no_plan(recipe.distill)
    given = open_checkpoint(student)
    for _ in run_pipeline(recipe, folder, only=CACHE_STAGES):  # checks the recipe, too
        pass
    run = RunFolder(folder)
    recipe = recipe.on_device(resolve_device(recipe.device))
    followed = with_cut_teacher(recipe, run)
    teacher = TeacherSource(folder=teaching_checkpoint(followed, run), caches=run.teacher_cache)
    require_one_vocabulary(teacher.folder, given.folder)
    ranks = Ranks(recipe.device)
    inputs = hash_once(ranks, lambda: _inputs(recipe, given))
    if finished_or_refused(run.stage(STAGE), inputs) is not None:
        return run.student
    with (
        watched(run.status, [STAGE]) if ranks.is_main else nullcontext() as status,
        failing_together(ranks),
        shared_artifact(run.stage(STAGE), ranks, stage=STAGE, inputs=inputs, seed=recipe.seed) as output,
    ):
        if status is not None:
            status.begin(STAGE)
        context = StageContext(recipe=followed, ranks=ranks, run=run, output=output, given_teacher=Path(recipe.teacher))
        loaded = load_trained(given, recipe.distill, ranks, device=recipe.device)
        record = recover(context, loaded, given, Recovery(section=recipe.distill, teacher=teacher))
        if status is not None:
            status.end(STAGE, skipped=False, seconds=record.seconds)
    return run.student


def _require_no_plan(section: DistillSection) -> None:
    """Refuses settings that take more of a student than its checkpoint: what was cut from where, or by which scores."""
    refused = {
        "distill.students": bool(section.students),
        "distill.loss.hidden": any(phase.loss.hidden is not None for phase in section.curriculum),
    }
    for setting in (setting for setting, asked in refused.items() if asked):
        raise MinitronError(f"{setting} needs a student that the run cuts itself, one is given: leave it out")


def _inputs(recipe: Recipe, student: Checkpoint) -> JsonObject:
    of_teacher = {name: hash_inputs(own) for name, own in stage_inputs(recipe).items() if name in CACHE_STAGES}
    return {
        "version": ARTIFACT_VERSION,
        "seed": recipe.seed,
        "settings": fingerprints.distill(recipe),
        "student": {**checkpoint_hashes(student.folder)},
        "teacher": fingerprints.teacher(recipe),
        "reads": {**of_teacher},
    }
