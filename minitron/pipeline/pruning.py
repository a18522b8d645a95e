"""Cutting a checkpoint by scores, with norm compensation and closed-form repair where asked for."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from minitron.artifacts.json_files import JsonObject
from minitron.checkpoints.checkpoint import PLAN_FILE, Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.checkpoints.lineage import lineage_of
from minitron.checkpoints.writing.journal import is_unfinished
from minitron.dtypes import DTYPES
from minitron.importance.scores import Scores
from minitron.importance.selection import select_units
from minitron.models.shape import HybridShape
from minitron.pipeline.calibration import open_stack, read_samples
from minitron.pipeline.context import Execution
from minitron.pipeline.fingerprints import data_hashes
from minitron.pipeline.provenance import write_provenance
from minitron.pipeline.run_folder import STATE_FOLDER
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.norm_compensation import norm_scales
from minitron.prune.plan import PrunePlan, save_plan
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.blockwise import repair
from minitron.prune.reconstruction.write import write_repaired
from minitron.recipe.prune import CalibrationSection, PruneSection, RepairSection
from minitron.runtime.dtypes import torch_dtype
from minitron.units import gib_to_bytes

logger = logging.getLogger(__name__)

HASHED = ("model", "tokenizer")  # parts of a checkpoint that scores say they were made from


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What is cut to what, by which scores.

    Attributes:
        source: The checkpoint that is cut.
        scores: Its scores.
        target: The shape that is left.
        layers: Kept blocks, ascending.
    """

    source: Checkpoint
    scores: Scores
    target: HybridShape
    layers: tuple[int, ...]

    @property
    def plan(self) -> PrunePlan:
        """The best units of every axis."""
        keep = select_units(self.scores, self.source.shape, self.target, self.layers)
        return PrunePlan(source=self.source.shape, target=self.target, keep=keep)

    @property
    def hashes(self) -> Mapping[str, str]:
        """What identifies the source's files, as its scores hold them where they do."""
        found = {part: str(self.scores.origin[part]) for part in HASHED if part in self.scores.origin}
        return found or checkpoint_hashes(self.source.folder)


def prune_to(
    cut: Cut, output: Path, *, section: PruneSection | None = None, execution: Execution | None = None
) -> Checkpoint:
    """Cuts a checkpoint, compensates and repairs it if asked to, and records where it comes from.

    The checkpoint is written into `output`, which is the caller's alone, and the plan and the state of an interrupted
    repair beside it. An interrupted call is resumed. A finished checkpoint, whose call was interrupted before it was
    taken, is made anew: it no longer says what it was made from.
    """
    section, execution = section or PruneSection(), execution or Execution()
    source, plan = cut.source, cut.plan
    lineage = lineage_of(source, hashes=cut.hashes)
    if section.compensate is not None and ("hidden_size", None) in plan.keep.indices:
        plan = replace(plan, scales=_norm_scales(source, plan, section.compensate, execution))
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
        repair_checkpoint(source, written, plan, section.repair, execution=execution)
    write_provenance(
        written,
        lineage,
        "prune",
        removed_blocks=sorted(set(range(source.shape.num_hidden_layers)) - set(cut.layers)),
        scored={key: cut.scores.origin[key] for key in ("data", "settings", "seed") if key in cut.scores.origin},
        compensated=_described(section.compensate),
        repaired=_described(section.repair),
    )
    return written


def repair_checkpoint(
    source: Checkpoint, pruned: Checkpoint, plan: PrunePlan, section: RepairSection, *, execution: Execution
) -> None:
    """Refits a pruned checkpoint's projections in place; nobody may read it yet. Resumes from the state beside it.

    Raises:
        MinitronError: The text holds nothing, its ids are not the model's, or a repaired weight overflows.
    """
    samples = read_samples(section, source, seed=execution.seed)
    teacher, student = (
        open_stack(checkpoint, layerwise=section.layerwise, device=execution.device) for checkpoint in (source, pruned)
    )
    state = pruned.folder.with_name(STATE_FOLDER)
    weights = repair(
        Alignment(teacher=teacher, student=student, plan=plan),
        samples,
        section,
        dtypes={name: torch_dtype(stored.dtype) for name, stored in pruned.tensors.items()},
        state_folder=state,
        origin=checkpoint_hashes(source.folder),
    )
    count = write_repaired(pruned, weights)
    open_checkpoint(pruned.folder)
    shutil.rmtree(state, ignore_errors=True)
    logger.info("repaired %d weights of %s", count, pruned.folder)


def _norm_scales(
    source: Checkpoint, plan: PrunePlan, section: CalibrationSection, execution: Execution
) -> dict[str, float]:
    stack = open_stack(source, layerwise=section.layerwise, device=execution.device)
    samples = read_samples(section, source, seed=execution.seed)
    return norm_scales(stack, samples, plan, batch_size=section.batch_size)


def _described(section: CalibrationSection | None) -> JsonObject | None:
    if section is None:
        return None
    return {
        **section.model_dump(mode="json", exclude={"data", "layerwise"}),
        "data": [*data_hashes(section.data)],
    }
