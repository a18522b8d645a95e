"""Teacher + scores + first candidate -> pruned checkpoint, compensated and repaired where the recipe says so."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from minitron.checkpoints.checkpoint import Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.checkpoints.lineage import lineage_of
from minitron.checkpoints.writing.journal import is_unfinished
from minitron.dtypes import DTYPES
from minitron.importance.scores import Scores, load_scores
from minitron.importance.selection import select_units
from minitron.models.shape import HybridShape
from minitron.pipeline.calibration import open_stack, read_samples
from minitron.pipeline.provenance import write_about
from minitron.pipeline.run_folder import (
    CHECKPOINT_FOLDER,
    PLAN_FILE,
    SCORES_FILE,
    STATE_FOLDER,
    Folders,
    cut_source,
    read_candidates,
)
from minitron.pipeline.stages.repair import repair_folder
from minitron.pipeline.text import data_hashes
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.norm_compensation import norm_scales
from minitron.prune.plan import PrunePlan, save_plan
from minitron.recipe.prune import CalibrationSection, PruneSection
from minitron.recipe.recipe import Recipe
from minitron.units import gib_to_bytes

HASHED = ("model", "tokenizer")  # parts of a checkpoint that scores say they were made from


def prune_section(recipe: Recipe) -> PruneSection:
    """How the recipe prunes, with the text that it leaves out taken from its score section."""
    filled = {}
    for name in ("compensate", "repair"):
        section: CalibrationSection | None = getattr(recipe.prune, name)
        if section is not None:
            text = {"data": section.data or recipe.score.data, "seq_len": section.seq_len or recipe.score.seq_len}
            filled[name] = section.model_copy(update=text)
    return recipe.prune.model_copy(update=filled)


def prune_origin(recipe: Recipe) -> dict[str, Any]:
    """Everything in the recipe that pruning depends on, beside shape and scores.

    The batch size of a repair counts, since its weights are compared bit for bit.
    """
    section = prune_section(recipe)
    text = {
        f"{name}_data": data_hashes(found.data)
        for name, found in (("compensate", section.compensate), ("repair", section.repair))
        if found is not None
    }
    without_text: Any = {"compensate": {"data"}, "repair": {"data"}}
    return {**section.model_dump(exclude=without_text), **text}


def prune_to(
    source: Checkpoint,
    scores: Scores,
    target: HybridShape,
    layers: tuple[int, ...],
    output: Path,
    *,
    section: PruneSection | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Checkpoint:
    """Cuts a checkpoint to a shape by scores, compensates and repairs it if asked to, and says where it comes from.

    The checkpoint is written into `output`, which is the caller's alone, and the plan and the state of an interrupted
    repair beside it. An interrupted call's work is gone on with. A finished checkpoint, whose call was interrupted
    before it was taken, is made anew: it no longer says what it was made from.
    """
    section = section or PruneSection()
    hashes = {part: scores.origin[part] for part in HASHED if part in scores.origin}
    lineage = lineage_of(source, hashes=hashes or checkpoint_hashes(source.folder))
    plan = PrunePlan(source=source.shape, target=target, keep=select_units(scores, source.shape, target, layers))
    if section.compensate is not None and ("hidden_size", None) in plan.keep.indices:
        plan = replace(plan, scales=_norm_scales(source, plan, section.compensate, seed=seed, device=device))
    if not is_unfinished(output):
        shutil.rmtree(output, ignore_errors=True)
    written = prune_checkpoint(
        source,
        plan,
        output,
        shard_bytes=gib_to_bytes(section.shard_gib),
        dtype=None if section.weights_dtype is None else DTYPES[section.weights_dtype].safetensors,
        drop_extras=section.drop_mtp,
    )
    save_plan(plan, output.with_name(PLAN_FILE))
    if section.repair is not None:
        state = output.with_name(STATE_FOLDER)
        repair_folder(source, written, plan, section.repair, state_folder=state, seed=seed, device=device)
    write_about(
        written,
        lineage,
        "prune",
        removed_blocks=sorted(set(range(source.shape.num_hidden_layers)) - set(layers)),
        scored={key: scores.origin[key] for key in ("data", "settings", "seed") if key in scores.origin},
        **{name: _said(found) for name, found in (("compensated", section.compensate), ("repaired", section.repair))},
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
        section=prune_section(recipe),
        seed=recipe.seed,
        device=recipe.device,
    )


def _norm_scales(
    source: Checkpoint, plan: PrunePlan, section: CalibrationSection, *, seed: int, device: str
) -> dict[str, float]:
    stack = open_stack(source, layerwise=section.layerwise, device=device)
    return norm_scales(stack, read_samples(section, source, seed=seed), plan, batch_size=section.batch_size)


def _said(section: CalibrationSection | None) -> dict[str, Any] | None:
    if section is None:
        return None
    return {**section.model_dump(mode="json", exclude={"data", "layerwise"}), "data": data_hashes(section.data)}
