"""Teacher + pruned checkpoint -> the same checkpoint with its projections refitted."""

import logging
import shutil
from pathlib import Path
from typing import Any

from minitron.hybrid.checkpoint import Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.hybrid.model import TORCH_DTYPES, load_model, load_tokenizer
from minitron.hybrid.samples import blend_samples
from minitron.hybrid.stack import LayerwiseStack, MemoryStack, Stack
from minitron.prune import PrunePlan, RepairSettings, repair, write_repaired
from minitron.recipe import Recipe, RepairSection
from minitron.stages.data import data_hashes, text_sources

logger = logging.getLogger(__name__)


def repair_section(recipe: Recipe) -> RepairSection | None:
    """How the recipe repairs, with what it leaves out taken from its score section; None when it does not."""
    section = recipe.prune.repair
    if section is None:
        return None
    filled = {"data": section.data or recipe.score.data, "seq_len": section.seq_len or recipe.score.seq_len}
    return section.model_copy(update=filled)


def repair_origin(recipe: Recipe) -> dict[str, Any]:
    """Everything that a repair depends on; empty when the recipe has none."""
    section = repair_section(recipe)
    if section is None:
        return {}
    # Unlike scores, repaired weights are compared bit for bit, so the batch size counts.
    return {"repair": section.model_dump(exclude={"data"}), "repair_data": data_hashes(section.data)}


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
        ValueError: The text holds nothing, its ids are not the model's, or a repaired weight overflows.
    """
    samples = blend_samples(
        text_sources(section.data),
        load_tokenizer(source.folder),
        seq_len=_given(section.seq_len),
        num_samples=section.samples,
        seed=seed,
        packed=section.packed,
    )
    highest = int(samples.token_ids.max())
    if highest >= source.shape.vocab_size:
        raise ValueError(
            f"token ids must be below the model's vocab_size {source.shape.vocab_size}, the tokenizer gives {highest}"
        )

    def stack(checkpoint: Checkpoint) -> Stack:
        if section.layerwise:
            return LayerwiseStack(checkpoint, device=device)
        return MemoryStack(load_model(checkpoint.folder, device=device), checkpoint.shape)

    weights = repair(
        stack(source),
        stack(pruned),
        plan,
        samples,
        repair_settings(section),
        dtypes={name: TORCH_DTYPES[stored.dtype] for name, stored in pruned.tensors.items()},
        state_folder=state_folder,
        origin=checkpoint_hashes(source.folder),
    )
    count = write_repaired(pruned, weights)
    open_checkpoint(pruned.folder)
    shutil.rmtree(state_folder, ignore_errors=True)
    logger.info("repaired %d weights of %s", count, pruned.folder)


def _given(seq_len: int | None) -> int:
    assert seq_len is not None
    return seq_len
