"""Stage `vocabulary`: teacher + text -> the teacher with the tokens of that text, which later stages go on from."""

from pathlib import Path

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.pipeline.context import StageContext
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER
from minitron.pipeline.sections import vocabulary_section
from minitron.pipeline.vocabulary.cut import cut_vocabulary


def run(context: StageContext) -> None:
    """Cuts the teacher's vocabulary; resumes an interrupted attempt."""
    recipe = context.recipe
    section = vocabulary_section(recipe)
    assert section is not None
    teacher, output = open_checkpoint(Path(recipe.teacher)), context.output / CHECKPOINT_FOLDER
    cut_vocabulary(teacher, section, output, seed=recipe.seed, shard_gib=recipe.prune.shard_gib)
