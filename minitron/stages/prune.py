"""Teacher + scores + first candidate -> pruned checkpoint, repaired where the recipe says so."""

import shutil
from pathlib import Path

from minitron.hybrid.checkpoint import Checkpoint, open_checkpoint
from minitron.hybrid.shape import HybridShape
from minitron.importance import Scores, load_scores, select_units
from minitron.prune import PrunePlan, prune_checkpoint, save_plan
from minitron.recipe import Recipe, RepairSection
from minitron.stages.files import (
    CHECKPOINT_FOLDER,
    PLAN_FILE,
    SCORES_FILE,
    STATE_FOLDER,
    Folders,
    cut_source,
    read_candidates,
)
from minitron.stages.repair import repair_folder, repair_section


def prune_to(
    source: Checkpoint,
    scores: Scores,
    target: HybridShape,
    layers: tuple[int, ...],
    output: Path,
    *,
    repair: RepairSection | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Checkpoint:
    """Cuts a checkpoint to a shape by scores, and repairs it if asked to; writes the checkpoint into `output`.

    An interrupted repair keeps its state beside `output`, which nobody may read before this returns.
    """
    plan = PrunePlan(source=source.shape, target=target, keep=select_units(scores, source.shape, target, layers))
    written = prune_checkpoint(source, plan, output)
    save_plan(plan, output.with_name(PLAN_FILE))
    if repair is not None:
        state = output.with_name(STATE_FOLDER)
        repair_folder(source, written, plan, repair, state_folder=state, seed=seed, device=device)
    return written


def run_prune(recipe: Recipe, folders: Folders, output: Path) -> None:
    """Teacher + scores + first candidate -> pruned checkpoint."""
    candidate = read_candidates(folders["search"])["candidates"][0]
    shutil.rmtree(output / CHECKPOINT_FOLDER, ignore_errors=True)
    prune_to(
        open_checkpoint(cut_source(recipe, folders)),
        load_scores(folders["score"] / SCORES_FILE),
        HybridShape(**candidate["shape"]),
        tuple(candidate["layers"]),
        output / CHECKPOINT_FOLDER,
        repair=repair_section(recipe),
        seed=recipe.seed,
        device=recipe.device,
    )
