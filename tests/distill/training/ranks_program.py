"""Distills the quickstart's student in every process of a launch.

Ways: `single`, `ddp`, `fsdp2`, and behind them `-stopped`: half of the steps, then the rest in a new model, or
`-answers`: uneven parts of the sequences count, and of one global batch none, or `-watched`: the rate is searched for
and the best state kept; and
`masked-B`: one step on 8 blocks of which uneven parts count, B blocks at a time in each process.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.masks import LossMask, PackedText
from minitron.distill.dataset import collate
from minitron.distill.loss.objective import Objective
from minitron.distill.settings import ValidationSettings
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training.model import DistillationModel
from minitron.distill.training.stage import DistillSettings, TrainingRun, distill, training_arguments
from minitron.distill.training.trainer import DistillationTrainer
from minitron.distill.training.validation import ValidationText
from minitron.distributed import Ranks
from minitron.importance.scores import random_scores
from minitron.importance.selection import select_units
from minitron.prune.in_memory import prune_model
from minitron.prune.plan import PrunePlan
from minitron.runtime.loading import load_model
from tests.support.paths import TEACHER
from tests.support.shards import whole_state

SETTINGS = DistillSettings(batch_size=4, learning_rate=1e-3, warmup_steps=2, chunk_tokens=37, save_steps=0)
STEPS, SEQ_LEN = 4, 24
VALIDATION_NT = np.random.default_rng(5).integers(3, 1000, (3, SEQ_LEN), dtype=np.int32)  # not a share for each process


def make_student() -> Any:
    """The quickstart's student: the teacher cut to the demo's shape."""
    source = open_checkpoint(TEACHER).shape
    layers = tuple(range(source.num_hidden_layers))
    target = source.resized(layers=layers, hidden_size=128, intermediate_size=320)
    keep = select_units(random_scores(source, seed=0), source, target, layers)
    return prune_model(load_model(TEACHER), PrunePlan(source=source, target=target, keep=keep))


def uneven_mask() -> LossMask:
    """Of each sequence another share counts: all tokens, few, none; and none of the third global batch."""
    rng = np.random.default_rng(1)
    shares_N = np.resize([1.0, 0.1, 0.6, 0.0, 0.05, 0.9], STEPS * 4)
    shares_N[8:12] = 0
    return rng.random((STEPS * 4, SEQ_LEN)) < shares_N[:, None]


def run(way: str, output: Path) -> None:
    """Distills in one way and writes curve and weights from the first process."""
    ranks = Ranks("cpu")
    kind, *more = way.split("-")
    assert ranks.world_size == (1 if kind == "single" else 2), f"{way} was started in {ranks.world_size} processes"
    assert kind == "single" or distributed.get_world_size() == 2
    settings = SETTINGS.model_copy(update={"sharding": "fsdp2", "micro_batch_size": 1} if kind == "fsdp2" else {})
    watched = "watched" in more
    if watched:
        found = {"learning_rate": "auto", "validation": ValidationSettings(every_steps=1), "save_steps": 2}
        settings = settings.model_copy(update=found)
    ids_NT = np.random.default_rng(0).integers(3, 1000, (STEPS * 4, SEQ_LEN), dtype=np.int32)
    sequences_NT = PackedText(ids_NT=ids_NT, counted_NT=uneven_mask() if "answers" in more else None)
    for stop in (STEPS // 2, None, None) if "stopped" in more else (None,):  # the last one finds all done
        student = make_student()
        teacher = OnlineTeacher(load_model(TEACHER), sharded=settings.sharding == "fsdp2")
        record = distill(
            student,
            teacher,
            sequences_NT,
            settings,
            run=TrainingRun(
                state_folder=output / f"{way}-state",
                seed=0,
                stop_after_tokens=None if stop is None else stop * 4 * SEQ_LEN,
                ranks=ranks,
            ),
            validation=ValidationText(sequences_NT=VALIDATION_NT, teacher=teacher) if watched else None,
        )
        if settings.sharding == "fsdp2":
            assert all(isinstance(parameter, DTensor) for parameter in student.parameters())
    weights = whole_state(student)
    if ranks.is_main:
        torch.save(weights, output / f"{way}.pt")
        (output / f"{way}.json").write_text(json.dumps({**asdict(record), "processes": ranks.world_size}))
    ranks.barrier()


def run_masked(way: str, output: Path) -> None:
    """One step over 8 blocks with uneven masks; writes its loss and gradient norm."""
    ranks = Ranks("cpu")
    micro = int(way.partition("-")[2])
    settings = SETTINGS.model_copy(update={"batch_size": 8, "micro_batch_size": micro, "max_grad_norm": 1e9})
    ids_NT = torch.from_numpy(np.random.default_rng(0).integers(3, 1000, (8, SEQ_LEN)))
    samples = []
    for index, counted in enumerate((24, 3, 17, 1, 9, 24, 2, 5)):
        labels_T = ids_NT[index].clone()
        labels_T[counted:] = -100
        samples.append({"input_ids": ids_NT[index], "labels": labels_T, "index": torch.tensor(index)})
    trainer = DistillationTrainer(
        model=DistillationModel(make_student(), OnlineTeacher(load_model(TEACHER)), Objective()),
        args=training_arguments(settings, output / f"{way}-{ranks.world_size}-state", max_steps=1, ranks=ranks, seed=0),
        train_dataset=samples,
        data_collator=collate,
    )
    trainer.train()
    if ranks.is_main:
        found = {key: trainer.state.log_history[0][key] for key in ("loss", "divergence", "grad_norm")}
        (output / f"{way}-{ranks.world_size}.json").write_text(json.dumps(found))
    ranks.barrier()


def main(output: Path, ways: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    for way in ways:
        (run_masked if way.startswith("masked") else run)(way, output)
