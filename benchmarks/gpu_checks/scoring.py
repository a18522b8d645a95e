"""Layerwise scoring of a few blocks at the 12B's widths, from a checkpoint that is written for it."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from layerwise_scale import write_checkpoint
from published import NANO_12B
from training_steps import make_shape

from gpu_checks.row import Row, not_run
from gpu_checks.target import Target
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.samples import Samples
from minitron.importance.calibrate import calibrate
from minitron.importance.settings import CalibrationSettings
from minitron.runtime.stack import LayerwiseStack
from minitron.units import GIB


def run(target: Target) -> Iterator[Row]:
    """Seconds and peak memory of the calibration with its default settings, in fp32 as always."""
    scored = replace(NANO_12B, hybrid_override_pattern=target.sizes.scored)
    shape = make_shape(scored, blocks=None, shrink=target.sizes.shrink)
    title = f"scores of {len(target.sizes.scored)} blocks ({target.sizes.scored})"
    with tempfile.TemporaryDirectory() as folder:
        needed, free = 2 * shape.params + GIB, shutil.disk_usage(folder).free
        if needed > free:
            yield not_run(title, f"{folder} needs {needed / GIB:.1f} GiB of disk, it has {free / GIB:.1f}: set TMPDIR")
            return
        started = target.now()
        write_checkpoint(Path(folder) / "checkpoint", shape)
        yield Row(measured=f"writing {shape.params / 1e9:.3g}B parameters", value=target.now() - started, unit="s")
        count, length = target.sizes.samples
        token_ids = np.random.default_rng(0).integers(3, shape.vocab_size, (count, length)).astype(np.int32)
        target.restart_peak()
        stack = LayerwiseStack(open_checkpoint(Path(folder) / "checkpoint"), device=target.device)
        started = target.now()
        scores = calibrate(
            stack, Samples(token_ids=token_ids), CalibrationSettings(batch_size=1), state_folder=Path(folder) / "state"
        )
        seconds = target.now() - started
    finite = bool(np.isfinite(scores.depth).all())
    yield Row(
        measured=title,
        value=seconds,
        unit="s",
        state="ok" if finite else "failed",
        note=f"{count} x {length:,} tokens" if finite else "a score is not finite",
    )
    largest = max(shape.block_params(kind) for kind, blocks in shape.counts.items() if blocks)
    yield target.peak("peak memory of scoring", 2 * 4 * largest, "two blocks in fp32")
