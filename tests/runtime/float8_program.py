"""A distillation with products in emulated 8-bit floats, as a process of a launch runs it."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training import stage
from minitron.distill.training.stage import DistillSettings, TrainingRun
from minitron.distributed import Ranks
from minitron.models.shape import HybridShape
from minitron.runtime.float8 import multiply_in_float8
from tests.support.models import make_tiny_model
from tests.support.shards import whole_state


def distill_emulated(shape: HybridShape, folder: Path, sharding: str) -> None:
    """Distills a model of a shape and saves the loss curve and whole weights in `folder`."""
    stage.require_float8 = lambda device: None
    stage.multiply_in_float8 = partial(multiply_in_float8, emulate=True)
    ranks = Ranks("cpu")
    student, teacher = make_tiny_model(shape, seed=1), make_tiny_model(shape)
    rows = np.random.default_rng(0).integers(3, 271, (40, 16), dtype=np.int32)
    settings = DistillSettings(
        batch_size=2, learning_rate=1e-2, warmup_steps=2, save_steps=0, precision="fp8", sharding=sharding
    )
    taught = OnlineTeacher(teacher, sharded=sharding == "fsdp2", device=ranks.device)
    run = TrainingRun(state_folder=folder / "state", seed=0, ranks=ranks)
    record = stage.distill(student, taught, rows, settings, run=run)
    state = whole_state(student)
    if ranks.is_main:
        torch.save({"curve": record.curve, "state": state}, folder / "trained.pt")
