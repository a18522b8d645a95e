"""Trains a student with a teacher, both in shards, in every process of a launch.

Ways: `read`, shards from the files; `loaded`, each process loads both whole and puts them into shards then; `half` and
`rest`, what `read` does up to the middle and from there on, which may be in another number of processes.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training.stage import DistillSettings, TrainingRun, distill
from minitron.distributed import Ranks
from minitron.pipeline.training import load_trained, write_trained
from minitron.recipe.distill import TrainSection
from minitron.runtime.loading import empty_model, load_model

STEPS, BATCH, SEQ_LEN = 4, 6, 16
SETTINGS = DistillSettings(
    batch_size=BATCH,
    micro_batch_size=1,
    learning_rate=1e-3,
    warmup_steps=1,
    save_steps=0,
    sharding="fsdp2",
    gradient_checkpointing=True,
)
SECTION = TrainSection(sharding="fsdp2")


def train(way: str, folder: Path) -> None:
    """Trains the student of a folder with the teacher beside it in one way, and writes it there."""
    ranks = Ranks("cpu")
    assert distributed.get_world_size() == ranks.world_size > 1
    source, weights = open_checkpoint(folder / "student"), open_checkpoint(folder / "teacher")
    if way == "loaded":
        student = load_model(source.folder)
        teacher = OnlineTeacher(load_model(weights.folder), sharded=True)
    else:
        student = load_trained(source, SECTION, ranks, device="cpu")
        assert student.device.type == "meta"
        teacher = OnlineTeacher(empty_model(weights, torch.float32), sharded=True, device=ranks.device, weights=weights)
    assert in_shards(teacher.model)  # its forward pass leaves the head gathered
    record = distill(
        student,
        teacher,
        np.random.default_rng(0).integers(3, 250, (STEPS * BATCH, SEQ_LEN), dtype=np.int32),
        SETTINGS,
        run=TrainingRun(
            state_folder=folder / ("state" if way in ("half", "rest") else f"{way}-state"),
            seed=0,
            stop_after_tokens=STEPS // 2 * BATCH * SEQ_LEN if way == "half" else None,
            ranks=ranks,
            weights=source,
        ),
    )
    assert in_shards(student)
    write_trained(student, record, source, folder / way, ranks)
    if ranks.is_main:
        (folder / f"{way}.json").write_text(json.dumps({**asdict(record), "processes": ranks.world_size}))
    ranks.barrier()


def in_shards(model: nn.Module) -> bool:
    """Whether all weights are shards."""
    return all(isinstance(parameter, DTensor) for parameter in model.parameters())


def main(folder: Path, *ways: str) -> None:
    torch.set_num_threads(1)
    for way in ways:
        train(way, folder)
