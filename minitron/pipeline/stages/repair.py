"""Teacher + pruned checkpoint -> the same checkpoint with its projections refitted."""

import logging
import shutil
from pathlib import Path

from minitron.checkpoints.checkpoint import Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.pipeline.calibration import open_stack, read_samples
from minitron.prune.plan import PrunePlan
from minitron.prune.reconstruction.blockwise import RepairSettings, repair
from minitron.prune.reconstruction.write import write_repaired
from minitron.recipe.prune import RepairSection
from minitron.runtime.dtypes import torch_dtype

logger = logging.getLogger(__name__)


def repair_settings(section: RepairSection) -> RepairSettings:
    """The recipe's settings as the repair takes them."""
    return RepairSettings(ridge=section.ridge, projections=section.projections, batch_size=section.batch_size)


def repair_folder(
    source: Checkpoint,
    pruned: Checkpoint,
    plan: PrunePlan,
    section: RepairSection,
    *,
    state_folder: Path,
    seed: int,
    device: str,
) -> None:
    """Repairs a pruned checkpoint in place; nobody may read it yet. Goes on where it was interrupted.

    Raises:
        MinitronError: The text holds nothing, its ids are not the model's, or a repaired weight overflows.
    """
    samples = read_samples(section, source, seed=seed)
    teacher, student = (
        open_stack(checkpoint, layerwise=section.layerwise, device=device) for checkpoint in (source, pruned)
    )
    weights = repair(
        teacher,
        student,
        plan,
        samples,
        repair_settings(section),
        dtypes={name: torch_dtype(stored.dtype) for name, stored in pruned.tensors.items()},
        state_folder=state_folder,
        origin=checkpoint_hashes(source.folder),
    )
    count = write_repaired(pruned, weights)
    open_checkpoint(pruned.folder)
    shutil.rmtree(state_folder, ignore_errors=True)
    logger.info("repaired %d weights of %s", count, pruned.folder)
