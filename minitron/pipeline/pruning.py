"""Cutting a checkpoint by scores, with norm compensation and closed-form repair where asked for."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from minitron.artifacts.header import STATE_FOLDER
from minitron.artifacts.json_files import JsonObject
from minitron.artifacts.resume import SavedState
from minitron.artifacts.shared import hash_once
from minitron.checkpoints.block_width_classes import check_block_widths
from minitron.checkpoints.checkpoint import PLAN_FILE, Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.checkpoints.finite import naming_weights
from minitron.checkpoints.lineage import Lineage, lineage_of
from minitron.checkpoints.vocabulary import require_one_vocabulary
from minitron.checkpoints.writing.journal import is_unfinished
from minitron.distributed import Ranks
from minitron.importance.scores import Scores
from minitron.importance.selection import select_units
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape
from minitron.pipeline.block_widths.choice import measure_block_widths
from minitron.pipeline.block_widths.costs import WidthCosts
from minitron.pipeline.calibration import open_stack, read_samples
from minitron.pipeline.context import Execution
from minitron.pipeline.fingerprints import data_hashes
from minitron.pipeline.provenance import write_provenance
from minitron.prune.checkpoint import OutputFormat, layout_of, prune_checkpoint
from minitron.prune.norm_compensation import norm_scales
from minitron.prune.plan import PrunePlan, save_plan
from minitron.prune.progress import PruningProgress
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.blockwise import repair
from minitron.prune.reconstruction.write import write_repaired
from minitron.recipe.prune import BlockWidthsSection, CalibrationSection, PruneSection, RepairSection
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
        keep: The units that are left, where they are not simply the best of every axis.
    """

    source: Checkpoint
    scores: Scores
    target: HybridShape
    layers: tuple[int, ...]
    keep: Keep | None = None

    @property
    def plan(self) -> PrunePlan:
        """The best units of every axis, or those that are given."""
        keep = self.keep or select_units(self.scores, self.source.shape, self.target, self.layers)
        return PrunePlan(source=self.source.shape, target=self.target, keep=keep)

    @property
    def hashes(self) -> Mapping[str, str]:
        """What identifies the source's files, as its scores hold them where they do."""
        found = {part: str(self.scores.origin[part]) for part in HASHED if part in self.scores.origin}
        return found or checkpoint_hashes(self.source.folder)


def prune_to(
    cut: Cut,
    output: Path,
    *,
    section: PruneSection | None = None,
    execution: Execution | None = None,
    ranks: Ranks | None = None,
) -> Checkpoint:
    """Cuts a checkpoint, compensates and repairs it if asked to, and records where it comes from.

    The checkpoint is written into `output`, which is the caller's alone, and the plan and the state of an interrupted
    repair beside it. An interrupted call is resumed; a cut or repair that it had finished is taken as it is. Several
    processes, which all call this and see the folder, share out everything that takes long; this one is alone where
    `ranks` is None.
    """
    section, execution = section or PruneSection(), execution or Execution()
    ranks = ranks or Ranks.alone(execution.device)
    if ranks.world_size > 1:
        execution = replace(execution, device=str(ranks.device))
    lineage = hash_once(ranks, lambda: lineage_of(cut.source, hashes=cut.hashes))
    if section.block_widths is not None:
        cut = _with_block_widths(cut, section.block_widths, output, execution, ranks)
    source, plan = cut.source, cut.plan
    if section.compensate is not None and ("hidden_size", None) in plan.keep.indices:
        plan = replace(plan, scales=_norm_scales(source, plan, section.compensate, execution, ranks))
    written_as = OutputFormat(
        shard_bytes=gib_to_bytes(section.shard_gib),
        dtype=section.stored_dtype,
        drop_extras=section.drop_mtp,
    )
    repaired = {"settings": _described(section.repair), "seed": execution.seed}
    progress = PruningProgress(
        output,
        {"cut": layout_of(source, plan, written_as).inputs_hash, "repair": repaired if section.repair else None},
        ranks,
    )
    if progress.finished is None:
        if ranks.is_main and not is_unfinished(output):
            shutil.rmtree(output, ignore_errors=True)
        with naming_weights(source):
            written = prune_checkpoint(source, plan, output, written_as, ranks=ranks)
        progress.save("cut")
    else:
        written = open_checkpoint(output)
    if ranks.is_main:
        save_plan(plan, output.with_name(PLAN_FILE))
    if section.repair is not None and progress.finished != "repair":
        with naming_weights(source):
            repair_checkpoint(source, written, plan, section.repair, execution=execution, ranks=ranks)
        progress.save("repair")
    if ranks.is_main:
        _write_origin(cut, written, lineage, section)
    ranks.barrier()
    return written


def _write_origin(cut: Cut, written: Checkpoint, lineage: Lineage, section: PruneSection) -> None:
    """Writes where a cut comes from."""
    blocks = range(cut.source.shape.num_hidden_layers)
    write_provenance(
        written,
        lineage,
        "prune",
        removed_blocks=sorted(set(blocks) - set(cut.layers)),
        scored={key: cut.scores.origin[key] for key in ("data", "settings", "seed") if key in cut.scores.origin},
        compensated=_described(section.compensate),
        allocated=_described(section.block_widths),
        repaired=_described(section.repair),
    )


def repair_checkpoint(
    source: Checkpoint,
    pruned: Checkpoint,
    plan: PrunePlan,
    section: RepairSection,
    *,
    execution: Execution,
    ranks: Ranks | None = None,
) -> None:
    """Refits a pruned checkpoint's projections in place; nobody may read it yet. Resumes from the state beside it.

    Several processes, each on its device of `execution`, repair it together; this one is alone where `ranks` is None.

    Raises:
        MinitronError: The text holds nothing, its ids are not the model's, or a repaired weight overflows.
    """
    require_one_vocabulary(source.folder, pruned.folder)
    ranks = ranks or Ranks.alone(execution.device)
    samples = read_samples(section, source, seed=execution.seed)
    teacher, student = (
        open_stack(checkpoint, layerwise=section.layerwise, device=execution.device) for checkpoint in (source, pruned)
    )
    state = pruned.folder.with_name(STATE_FOLDER)
    origin = hash_once(ranks, lambda: checkpoint_hashes(source.folder))
    weights = repair(
        Alignment(teacher=teacher, student=student, plan=plan, origin=origin),
        samples,
        section,
        dtypes={name: torch_dtype(stored.dtype) for name, stored in pruned.tensors.items()},
        state_folder=state,
        ranks=ranks,
    )
    if ranks.is_main:
        count = write_repaired(pruned, weights)
        open_checkpoint(pruned.folder)
        logger.info("repaired %d weights of %s", count, pruned.folder)
    else:
        for _ in weights:  # the first process writes what all have found
            pass
    ranks.barrier()


def _with_block_widths(cut: Cut, section: BlockWidthsSection, output: Path, execution: Execution, ranks: Ranks) -> Cut:
    """The cut with FFN widths by block; as it is where the FFN is not cut or a single block has one."""
    shape = cut.source.shape
    layers = [layer for layer in cut.layers if layer in shape.ffn_layers]
    if cut.target.intermediate_size == shape.intermediate_size or len(layers) < 2:
        logger.info("no FFN width to choose block by block: all blocks keep theirs, or a single one has an FFN")
        return cut
    check_block_widths(cut.target)
    identity = {"target": repr(cut.target), "layers": layers, "settings": _described(section), "source": cut.hashes}
    state = SavedState(output.with_name(STATE_FOLDER), {**identity, "seed": execution.seed})
    found = state.load_tensors("block_widths") if ranks.is_main else None
    saved = ranks.broadcast(None if found is None else found["widths"].tolist())
    if saved is None:
        with naming_weights(cut.source):
            costs = WidthCosts(cut.source, cut.scores, section, execution)
            mean, most = cut.target.intermediate_size, shape.intermediate_size
            saved = measure_block_widths(costs, layers, mean, most=most, steps=section.steps, ranks=ranks)
        if ranks.is_main:
            state.save_tensors("block_widths", {"widths": torch.tensor(saved)})
    return replace(cut, target=replace(cut.target, block_widths=tuple(saved)))


def _norm_scales(
    source: Checkpoint, plan: PrunePlan, section: CalibrationSection, execution: Execution, ranks: Ranks
) -> dict[str, float]:
    stack = open_stack(source, layerwise=section.layerwise, device=execution.device)
    samples = read_samples(section, source, seed=execution.seed)
    return norm_scales(stack, samples, plan, batch_size=section.batch_size, ranks=ranks)


def _described(section: CalibrationSection | BlockWidthsSection | None) -> JsonObject | None:
    if section is None:
        return None
    return {
        **section.model_dump(mode="json", exclude={"data", "layerwise"}),
        "data": [*data_hashes(section.data)],
    }
