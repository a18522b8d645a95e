"""Prunes a checkpoint on disk, streaming from file to file, and rejects the result unless every count agrees."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.disk_space import reporting_full_disk
from minitron.artifacts.json_files import write_json
from minitron.checkpoints.block_width_classes import class_files, write_class_files
from minitron.checkpoints.checkpoint import Checkpoint, carried_files, open_checkpoint
from minitron.checkpoints.extras import extra_cuts
from minitron.checkpoints.headers import INDEX_FILE
from minitron.checkpoints.weights import DEFAULT_SHARD_BYTES, carry_files
from minitron.checkpoints.writing.journal import CONFIG_FILE, resumable
from minitron.checkpoints.writing.layout import Layout, plan_layout
from minitron.checkpoints.writing.streaming import write_layout
from minitron.distributed import Ranks
from minitron.dtypes import FLOAT_VIEWS
from minitron.errors import CheckpointError, ShapeError
from minitron.models.config import config_for_shape
from minitron.models.slicing import tensor_cuts
from minitron.prune.plan import PrunePlan
from minitron.prune.verification import check_logits, check_params, check_range
from minitron.runtime.dtypes import torch_dtype

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """How a pruned checkpoint is written.

    Attributes:
        shard_bytes: Most bytes of tensors in a file.
        dtype: safetensors dtype of all weights; None keeps the stored ones.
        drop_extras: Leave tensors beside the model out (layers that predict further tokens); else their hidden channels
            are cut as the model's are.
        threads: How many read, cut and write at a time in a process; None for the measured default.
    """

    shard_bytes: int = DEFAULT_SHARD_BYTES
    dtype: str | None = None
    drop_extras: bool = False
    threads: int | None = None


def prune_checkpoint(
    source: Checkpoint,
    plan: PrunePlan,
    output: Path,
    written_as: OutputFormat | None = None,
    *,
    check: bool = True,
    ranks: Ranks | None = None,
) -> Checkpoint:
    """Writes the pruned checkpoint into an empty folder, or resumes an interrupted call, and checks it.

    Tokenizer, templates and generation config are copied. `config.json` comes last, so that nothing unfinished opens
    as a checkpoint. An interrupted call leaves its whole shards; one with the same inputs keeps them. Several processes
    take shards in turn; the first one does the rest.

    Args:
        source: What is pruned; it is only read.
        plan: What survives.
        output: The folder.
        written_as: How it is written.
        check: Compare logits with the model cut in memory too, which reads both models once more, a block at a time.
        ranks: The processes that write together; this one alone when None.

    Raises:
        MinitronError: The plan is for another shape, the folder holds something else, the weights are not of floating
            point, the extra tensors cannot be cut, the disk has too little room, the source changes meanwhile, or a
            count or a logit is another than planned.
    """
    started, written_as, ranks = time.monotonic(), written_as or OutputFormat(), ranks or Ranks.alone()
    layout = layout_of(source, plan, written_as)
    config = _config(source, plan, written_as)
    carried = carried_files(source.folder)
    classes = class_files(plan.target)
    names = [
        *(shard.name for shard in layout.shards),
        INDEX_FILE,
        CONFIG_FILE,
        *(path.name for path in carried),
        *classes,
    ]
    opened = resumable(output, inputs_hash=layout.inputs_hash, files=names, ranks=ranks)
    with reporting_full_disk(output), opened as journal:
        write_layout(layout, journal, threads=written_as.threads, ranks=ranks)
        if ranks.is_main:
            carry_files(source, output)
            write_class_files(plan.target, output)
            unfinished = open_checkpoint(output, config=config)
            try:
                _check(unfinished, source, plan, written_as.dtype, logits=check)
            except ValueError:
                for name in names:  # a checkpoint that failed its checks must not be resumed
                    (output / name).unlink(missing_ok=True)
                journal.clear()
                raise
            write_json(output / CONFIG_FILE, config)
    ranks.barrier()
    written = open_checkpoint(output)
    logger.info("pruned %d to %d parameters in %.1f s", source.params, written.params, time.monotonic() - started)
    return written


def _check(written: Checkpoint, source: Checkpoint, plan: PrunePlan, dtype: str | None, *, logits: bool) -> None:
    check_params(written, plan)
    if dtype == "F16":
        check_range(written)
    if logits:
        check_logits(source, written, plan, dtype=dtype)


def layout_of(source: Checkpoint, plan: PrunePlan, written_as: OutputFormat) -> Layout:
    """Where the pruned checkpoint's tensors will lie.

    Raises:
        ShapeError: The plan is for another shape.
        CheckpointError: The weights are not of floating point.
    """
    if plan.source != source.shape:
        raise ShapeError(
            f"the plan must start from the checkpoint's shape {source.shape}, it starts from {plan.source}"
        )
    other = next(((name, stored) for name, stored in source.tensors.items() if stored.dtype not in FLOAT_VIEWS), None)
    if other is not None:
        name, stored = other
        raise CheckpointError(
            f"weights must be one of {', '.join(FLOAT_VIEWS)} to be pruned, {name} in {stored.file} is {stored.dtype}; "
            "prune the checkpoint that this one was quantized from"
        )
    cuts = [*tensor_cuts(plan.source, plan.keep, scales=plan.scales)]
    if not written_as.drop_extras:
        cuts += extra_cuts(source, plan.keep)
    return plan_layout(source, cuts, shard_bytes=written_as.shard_bytes, dtype=written_as.dtype)


def _config(source: Checkpoint, plan: PrunePlan, written_as: OutputFormat) -> dict[str, object]:
    config: dict[str, object] = {**config_for_shape(source.config, plan.target)}
    if written_as.dtype is not None:
        name = str(torch_dtype(written_as.dtype)).removeprefix("torch.")
        spellings = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
        config |= dict.fromkeys(spellings, name)
    count = source.shape.family.extra_count
    if written_as.drop_extras and count is not None:
        config[count] = 0
    return config
