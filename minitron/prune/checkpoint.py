"""Pruning on disk: a smaller checkpoint written tensor by tensor, and refused unless every count agrees."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minitron.hybrid.checkpoint import Checkpoint, carried_files, open_checkpoint
from minitron.hybrid.config import config_for_shape
from minitron.hybrid.progress import track
from minitron.hybrid.slicing import slice_tensors
from minitron.hybrid.weights import DEFAULT_SHARD_BYTES, copy_files, open_weights, write_json, write_weights
from minitron.prune.gate import check_logits, check_params
from minitron.prune.plan import PrunePlan

logger = logging.getLogger(__name__)


def prune_checkpoint(
    source: Checkpoint, plan: PrunePlan, output: Path, *, shard_bytes: int = DEFAULT_SHARD_BYTES
) -> Checkpoint:
    """Writes the pruned checkpoint into an empty folder and checks it.

    Weights keep their stored dtype. Tokenizer, templates and generation config are copied.

    Raises:
        ValueError: The plan is for another shape, the folder is not empty, or a count disagrees afterwards.
    """
    if plan.source != source.shape:
        raise ValueError(
            f"the plan must start from the checkpoint's shape {source.shape}, it starts from {plan.source}"
        )
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"the output folder must be empty, {output} is not")
    started = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    for name in source.ignored:
        logger.warning("%s is left out: multi-token prediction is not pruned", name)
    with open_weights(source) as read:
        pruned = slice_tensors(read, plan.source, plan.keep, scales=plan.scales)
        write_weights(output, _counted(pruned, len(plan.target.tensors())), shard_bytes=shard_bytes)
    copy_files(carried_files(source.folder), output)
    write_json(output / "config.json", config_for_shape(source.config, plan.target))
    written = open_checkpoint(output)
    check_params(written, plan)
    check_logits(source, written, plan)
    logger.info("pruned %d to %d parameters in %.1f s", source.params, written.params, time.monotonic() - started)
    return written


def _counted(tensors: Iterator[tuple[str, Any]], total: int) -> Iterator[tuple[str, Any]]:
    return track(tensors, "prune", total=total)
