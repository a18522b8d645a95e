"""Stage `depth`: teacher -> a checkpoint with fewer blocks, the first of the two published steps.

Source: arXiv 2508.14444 (62 -> 56 blocks, distillation, then the widths). A recipe without `depth_first` has no such
stage, and its search may cut depth and widths together.
"""

from pathlib import Path

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.importance.scores import load_scores
from minitron.pipeline.blocks import kept_blocks
from minitron.pipeline.context import StageContext
from minitron.pipeline.pruning import Cut, prune_to
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, SCORES_FILE
from minitron.pipeline.scoring import score_folder
from minitron.pipeline.sections import depth_first_section, prune_section

SCORES_FOLDER = "score"


def run(context: StageContext) -> None:
    """Scores and removes blocks; resumes an interrupted attempt."""
    recipe, output = context.recipe, context.output
    teacher = open_checkpoint(Path(recipe.teacher))
    folder, ranks = output / SCORES_FOLDER, context.ranks
    if not ranks.on_main((folder / SCORES_FILE).is_file):
        folder.mkdir(exist_ok=True)
        score_folder(teacher.folder, recipe.score, folder, seed=recipe.seed, device=recipe.device, ranks=ranks)
        ranks.barrier()  # behind this the scores are written
    scores = load_scores(folder / SCORES_FILE)
    layers = kept_blocks(recipe, teacher.shape, scores.depth, depth_first_section(recipe).num_hidden_layers)
    cut = Cut(source=teacher, scores=scores, target=teacher.shape.resized(layers=layers), layers=layers)
    section = prune_section(recipe)
    prune_to(cut, output / CHECKPOINT_FOLDER, section=section, execution=context.execution, ranks=ranks)
