"""Teacher + scores + first candidate -> pruned checkpoint."""

import shutil
from pathlib import Path

from minitron.hybrid.checkpoint import Checkpoint, open_checkpoint
from minitron.hybrid.shape import HybridShape
from minitron.importance import Scores, load_scores, select_units
from minitron.prune import PrunePlan, is_unfinished, prune_checkpoint, save_plan
from minitron.recipe import Recipe
from minitron.stages.files import CHECKPOINT_FOLDER, PLAN_FILE, SCORES_FILE, Folders, cut_source, read_candidates


def prune_to(
    source: Checkpoint, scores: Scores, target: HybridShape, layers: tuple[int, ...], output: Path
) -> Checkpoint:
    """Cuts a checkpoint to a shape by scores; writes the checkpoint into `output`, which is the caller's alone.

    An interrupted call's work there is gone on with. A finished checkpoint, whose call was interrupted before it was
    taken, is made anew: it no longer says what it was made from.
    """
    plan = PrunePlan(source=source.shape, target=target, keep=select_units(scores, source.shape, target, layers))
    if not is_unfinished(output):
        shutil.rmtree(output, ignore_errors=True)
    written = prune_checkpoint(source, plan, output)
    save_plan(plan, output.with_name(PLAN_FILE))
    return written


def run_prune(recipe: Recipe, folders: Folders, output: Path) -> None:
    """Teacher + scores + first candidate -> pruned checkpoint."""
    candidate = read_candidates(folders["search"])["candidates"][0]
    prune_to(
        open_checkpoint(cut_source(recipe, folders)),
        load_scores(folders["score"] / SCORES_FILE),
        HybridShape(**candidate["shape"]),
        tuple(candidate["layers"]),
        output / CHECKPOINT_FOLDER,
    )
