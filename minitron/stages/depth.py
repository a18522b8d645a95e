"""The first of the two published steps: blocks are removed and the loss of them is distilled away, before any width.

Source: arXiv 2508.14444 (62 -> 56 blocks, distillation, then the widths). A recipe without `depth_first` has no such
step, and its search may cut depth and widths together.
"""

import shutil
from pathlib import Path
from typing import Any

from minitron.hybrid.checkpoint import open_checkpoint
from minitron.hybrid.model import load_model
from minitron.hybrid.shape import HybridShape
from minitron.importance import BlockQuotas, load_scores, top_blocks
from minitron.importance.scores import ScoreArray
from minitron.recipe import DepthFirstSection, Recipe
from minitron.stages.data import data_hashes
from minitron.stages.distill import recover
from minitron.stages.files import CHECKPOINT_FOLDER, SCORES_FILE, Folders
from minitron.stages.prune import prune_origin, prune_section, prune_to
from minitron.stages.score import score_folder, score_origin

SCORES_FOLDER = "score"
PRUNED_FOLDER = "pruned"


def kept_blocks(recipe: Recipe, shape: HybridShape, depth_L: ScoreArray, kept: int) -> tuple[int, ...]:
    """Ascending indices of the `kept` best blocks, the attention blocks that must stay among them.

    Raises:
        ValueError: The recipe's quota does not allow so few blocks.
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
        "distill": section.distill.model_dump(exclude={"data", "save_steps"}),
        "data": data_hashes(section.distill.data),
        **prune_origin(recipe),
    }


def _depth_origin(recipe: Recipe) -> dict[str, Any]:
    # Width scorers say nothing of blocks; another choice of them must not cut and distil the blocks anew.
    origin = score_origin(Path(recipe.teacher), recipe.score, seed=recipe.seed)
    return {**origin, "settings": {key: value for key, value in origin["settings"].items() if key != "width"}}


def run_depth(recipe: Recipe, folders: Folders, output: Path) -> None:
    """Teacher -> a checkpoint with fewer blocks, distilled; goes on where it was interrupted."""
    section, teacher = _section(recipe), open_checkpoint(Path(recipe.teacher))
    scores_folder, pruned = output / SCORES_FOLDER, output / PRUNED_FOLDER
    if not (scores_folder / SCORES_FILE).is_file():
        scores_folder.mkdir(exist_ok=True)
        score_folder(teacher.folder, recipe.score, scores_folder, seed=recipe.seed, device=recipe.device)
    scores = load_scores(scores_folder / SCORES_FILE)
    layers = kept_blocks(recipe, teacher.shape, scores.depth, section.num_hidden_layers)
    template = prune_to(
        teacher,
        scores,
        teacher.shape.resized(layers=layers),
        layers,
        pruned / CHECKPOINT_FOLDER,
        section=prune_section(recipe),
        seed=recipe.seed,
        device=recipe.device,
    )
    student = load_model(template.folder, device=recipe.device)
    recover(recipe.model_copy(update={"distill": section.distill}), student, template, output)
    shutil.rmtree(pruned)


def _section(recipe: Recipe) -> DepthFirstSection:
    assert recipe.depth_first is not None
    return recipe.depth_first
