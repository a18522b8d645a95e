"""Distills nested students of a tiny hybrid in every process of a launch.

Ways: `single` and `ddp`, and behind them `-stopped`: half of the steps, then the rest in a new model.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from minitron.distill.nested.students import TrainedStudent
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training.stage import DistillSettings, TrainingRun, distill
from minitron.distributed import Ranks
from minitron.models.nested import NestedStudent
from tests.support.models import make_tiny_model, make_tiny_shape

STEPS, SEQ_LEN, BATCH = 6, 24, 4
SHAPE = make_tiny_shape()


def nested_students() -> tuple[TrainedStudent, ...]:
    few = (0, 1, 2, 4, 7)
    narrow = SHAPE.resized(layers=tuple(range(8)), hidden_size=15, mamba_num_heads=4)
    short = SHAPE.resized(layers=few, intermediate_size=20)
    correction = {"backbone.norm_f.weight": 0.1 * torch.ones(15), "lm_head.weight": 0.01 * torch.ones(271, 15)}
    return (
        TrainedStudent(
            student=NestedStudent(name="narrow", shape=narrow, layers=tuple(range(8)), weight=0.7),
            correction=correction,
        ),
        TrainedStudent(student=NestedStudent(name="short", shape=short, layers=few, share=2)),
    )


def text() -> Any:
    return np.random.default_rng(0).integers(3, 271, (STEPS * BATCH, SEQ_LEN), dtype=np.int32)


def run(way: str, output: Path) -> None:
    """Distills in one way and writes curve and weights from the first process."""
    ranks = Ranks("cpu")
    kind, *more = way.split("-")
    assert ranks.world_size == (1 if kind == "single" else 2), f"{way} was started in {ranks.world_size} processes"
    assert kind == "single" or distributed.get_world_size() == 2
    settings = DistillSettings(
        batch_size=BATCH, learning_rate=1e-3, warmup_steps=2, chunk_tokens=37, save_steps=0, nested=nested_students()
    )
    for stop in (STEPS // 2, None, None) if "stopped" in more else (None,):  # the last one finds all done
        student = make_tiny_model(SHAPE, seed=1)
        record = distill(
            student,
            OnlineTeacher(make_tiny_model(SHAPE)),
            text(),
            settings,
            run=TrainingRun(
                state_folder=output / f"{way}-state",
                seed=0,
                stop_after_tokens=None if stop is None else stop * BATCH * SEQ_LEN,
                ranks=ranks,
            ),
        )
    if ranks.is_main:
        torch.save(student.state_dict(), output / f"{way}.pt")
        (output / f"{way}.json").write_text(json.dumps({"curve": record.curve, "processes": ranks.world_size}))
    ranks.barrier()


def main(output: Path, ways: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    for way in ways:
        run(way, output)
