"""The first of the two published steps: blocks are removed, and the loss of them is distilled away, before any width.

Source: arXiv 2508.14444 (62 -> 56 blocks, distillation, then the widths). A recipe without `depth_first` has no such
step, and its search may cut depth and widths together.
"""

from pathlib import Path
from typing import Any

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.distributed import Ranks
from minitron.importance.scores import ScoreArray, load_scores
from minitron.importance.selection import top_blocks
from minitron.models.quotas import BlockQuotas
from minitron.models.shape import HybridShape
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, PLAN_FILE, SCORES_FILE, Folders
from minitron.pipeline.stages.correct import correct_origin
from minitron.pipeline.stages.distill import kept_by, recover
from minitron.pipeline.stages.prune import prune_origin, prune_section, prune_to
from minitron.pipeline.stages.score import score_folder, score_origin
from minitron.pipeline.teachers import Taught
from minitron.pipeline.training import load_trained, taught_by, train_origin
from minitron.recipe.distill import DepthFirstSection
from minitron.recipe.recipe import Recipe

SCORES_FOLDER = "score"


def kept_blocks(recipe: Recipe, shape: HybridShape, depth_L: ScoreArray, kept: int) -> tuple[int, ...]:
    """Ascending indices of the `kept` best blocks, the attention blocks that must stay among them.

    Raises:
        MinitronError: The recipe's quota does not allow so few blocks.
    """
    quotas = BlockQuotas(at_least=dict.fromkeys(shape.family.kinds_that_keep("kv"), recipe.search.keep_attention))
    return top_blocks(depth_L, shape.hybrid_override_pattern, kept, quotas=quotas)


def depth_settings(recipe: Recipe) -> dict[str, Any]:
    """Everything that the first step depends on."""
    section = _section(recipe)
    return {
        "score": _depth_origin(recipe),
        "num_hidden_layers": section.num_hidden_layers,
        "keep_attention": recipe.search.keep_attention,
        **prune_origin(recipe),
    }


def depth_distill_settings(recipe: Recipe) -> dict[str, Any]:
    """Everything that the recovery from the first step depends on, beside its cut."""
    return {"distill": train_origin(_section(recipe).distill), "corrected": correct_origin(recipe)}


def _depth_origin(recipe: Recipe) -> dict[str, Any]:
    # Width scorers say nothing of blocks; another choice of them must not cut and distill the blocks anew.
    origin = score_origin(Path(recipe.teacher), recipe.score, seed=recipe.seed)
    return {**origin, "settings": {key: value for key, value in origin["settings"].items() if key != "width"}}


def run_depth(recipe: Recipe, folders: Folders, output: Path) -> None:
    """Teacher -> a checkpoint with fewer blocks; goes on where it was interrupted."""
    section, teacher = _section(recipe), open_checkpoint(Path(recipe.teacher))
    scores_folder = output / SCORES_FOLDER
    if not (scores_folder / SCORES_FILE).is_file():
        scores_folder.mkdir(exist_ok=True)
        score_folder(teacher.folder, recipe.score, scores_folder, seed=recipe.seed, device=recipe.device)
    scores = load_scores(scores_folder / SCORES_FILE)
    layers = kept_blocks(recipe, teacher.shape, scores.depth, section.num_hidden_layers)
    prune_to(
        teacher,
        scores,
        teacher.shape.resized(layers=layers),
        layers,
        output / CHECKPOINT_FOLDER,
        section=prune_section(recipe),
        seed=recipe.seed,
        device=recipe.device,
    )


def run_depth_distill(recipe: Recipe, folders: Folders, output: Path) -> None:
    """The checkpoint with fewer blocks, distilled; goes on where it was interrupted."""
    section, ranks = _section(recipe).distill, Ranks(recipe.device)
    cut = open_checkpoint(folders["depth"] / CHECKPOINT_FOLDER)
    recover(
        recipe,
        load_trained(cut, section, ranks, device=recipe.device),
        cut,
        output,
        section=section,
        taught=Taught(folder=taught_by(recipe, folders)),
        kept=kept_by([folders["depth"] / PLAN_FILE]),
        ranks=ranks,
    )


def _section(recipe: Recipe) -> DepthFirstSection:
    assert recipe.depth_first is not None
    return recipe.depth_first
