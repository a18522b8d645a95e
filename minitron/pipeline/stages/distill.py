"""Stage `distill`: pruned checkpoint + teacher -> distilled checkpoint and its loss curve."""

import shutil

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.pipeline.context import StageContext
from minitron.pipeline.nested.nesting import STARTS_FOLDER, nest_students
from minitron.pipeline.recovery import Recovery, compose_plans, recover
from minitron.pipeline.sections import teaching_checkpoint
from minitron.pipeline.teachers import TeacherSource
from minitron.pipeline.training import load_trained


def run(context: StageContext) -> None:
    """Distills the pruned checkpoint; resumes an interrupted attempt."""
    recipe, run_folder = context.recipe, context.run
    pruned = open_checkpoint(run_folder.pruned)
    plans = [run_folder.plan] if recipe.depth_first is None else [run_folder.depth_plan, run_folder.plan]
    student = load_trained(pruned, recipe.distill, context.ranks, device=recipe.device)
    nested = None
    if recipe.distill.students:
        student, nested = nest_students(context, pruned, student)
    recovery = Recovery(
        section=recipe.distill,
        teacher=TeacherSource(folder=teaching_checkpoint(recipe, run_folder), caches=run_folder.teacher_cache),
        kept=compose_plans(plans),
        nested=nested,
    )
    recover(context, student, pruned, recovery)
    if context.ranks.is_main:
        shutil.rmtree(context.output / STARTS_FOLDER, ignore_errors=True)
