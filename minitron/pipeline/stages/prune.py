"""Stage `prune`: checkpoint + scores + best candidate -> pruned checkpoint, compensated and repaired if asked to."""

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.importance.scores import load_scores
from minitron.pipeline.context import StageContext
from minitron.pipeline.pruning import Cut, prune_to
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER
from minitron.pipeline.sections import cut_source, prune_section


def run(context: StageContext) -> None:
    """Cuts to the best candidate's shape."""
    recipe = context.recipe
    best = context.run.read_candidates().candidates[0]
    cut = Cut(
        source=open_checkpoint(cut_source(recipe, context.run)),
        scores=load_scores(context.run.scores),
        target=best.shape,
        layers=best.layers,
    )
    prune_to(
        cut,
        context.output / CHECKPOINT_FOLDER,
        section=prune_section(recipe),
        execution=context.execution,
        ranks=context.ranks,
    )
