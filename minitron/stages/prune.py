"""Teacher + scores + first candidate -> pruned checkpoint, repaired where the recipe says so."""

import shutil
from pathlib import Path

from minitron.hybrid.checkpoint import Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.hybrid.lineage import lineage_of
from minitron.hybrid.shape import HybridShape
from minitron.importance import Scores, load_scores, select_units
from minitron.prune import PrunePlan, is_unfinished, prune_checkpoint, save_plan
from minitron.recipe import Recipe, RepairSection
from minitron.stages.about import write_about
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

HASHED = ("model", "tokenizer")  # parts of a checkpoint that scores say they were made from


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
    """Cuts a checkpoint to a shape by scores, and repairs it if asked to.

    The checkpoint is written into `output`, which is the caller's alone, and the state of an interrupted repair beside
    it. An interrupted call's work is gone on with. A finished checkpoint, whose call was interrupted before it was
    taken, is made anew: it no longer says what it was made from.
    """
    plan = PrunePlan(source=source.shape, target=target, keep=select_units(scores, source.shape, target, layers))
    if not is_unfinished(output):
        shutil.rmtree(output, ignore_errors=True)
    written = prune_checkpoint(source, plan, output)
    save_plan(plan, output.with_name(PLAN_FILE))
    if repair is not None:
        state = output.with_name(STATE_FOLDER)
        repair_folder(source, written, plan, repair, state_folder=state, seed=seed, device=device)
    hashes = {part: scores.origin[part] for part in HASHED if part in scores.origin}
    write_about(
        written,
        lineage_of(source, hashes=hashes or checkpoint_hashes(source.folder)),
        "prune",
        removed_blocks=sorted(set(range(source.shape.num_hidden_layers)) - set(layers)),
        scored={key: scores.origin[key] for key in ("data", "settings", "seed") if key in scores.origin},
    )
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
        repair=repair_section(recipe),
        seed=recipe.seed,
        device=recipe.device,
    )
