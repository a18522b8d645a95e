"""Stage `score`: the checkpoint to be cut + calibration text -> scores."""

from minitron.pipeline.context import StageContext
from minitron.pipeline.scoring import score_folder
from minitron.pipeline.sections import cut_source, score_section


def run(context: StageContext) -> None:
    """Scores the checkpoint that is cut."""
    recipe = context.recipe
    score_folder(
        cut_source(recipe, context.run),
        score_section(recipe),
        context.output,
        seed=recipe.seed,
        device=recipe.device,
        ranks=context.ranks,
    )
