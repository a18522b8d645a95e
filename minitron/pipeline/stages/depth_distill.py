"""Stage `depth_distill`: depth-pruned checkpoint + teacher -> its distilled form, which widths are cut from."""

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.pipeline.context import StageContext
from minitron.pipeline.recovery import Recovery, compose_plans, recover
from minitron.pipeline.sections import depth_first_section, teaching_checkpoint
from minitron.pipeline.teachers import TeacherSource
from minitron.pipeline.training import load_trained


def run(context: StageContext) -> None:
    """Distills the checkpoint with fewer blocks; resumes an interrupted attempt."""
    recipe, run_folder = context.recipe, context.run
    section = depth_first_section(recipe).distill
    cut = open_checkpoint(run_folder.depth_pruned)
    student = load_trained(cut, section, context.ranks, device=recipe.device)
    recovery = Recovery(
        section=section,
        teacher=TeacherSource(folder=teaching_checkpoint(recipe, run_folder)),
        kept=compose_plans([run_folder.depth_plan]),
    )
    recover(context, student, cut, recovery)
