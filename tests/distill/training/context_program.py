"""Distills a tiny hybrid with sequences in parts, in every process of a launch.

Ways: `all` (uneven masks, the text's own loss, hidden states, accumulation; blocks recomputed where sequences lie in
parts), `all-fsdp2`, and `watched` (the rate is searched for, the best state kept).
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minitron.data.masks import LossMask, PackedText
from minitron.distill.loss.hidden_states import CosineLoss
from minitron.distill.loss.objective import Objective
from minitron.distill.settings import ValidationSettings
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training.model import HiddenMatch
from minitron.distill.training.stage import DistillSettings, TrainingRun, distill
from minitron.distill.training.validation import ValidationText
from minitron.distributed import Ranks
from tests.support.models import make_tiny_model, make_tiny_shape
from tests.support.shards import whole_state

STEPS, BATCH, SEQ_LEN = 3, 4, 25  # 13 + 12, or 9 + 8 + 8
SETTINGS = DistillSettings(
    batch_size=BATCH, learning_rate=0.3, warmup_steps=0, optim="sgd", chunk_tokens=7, save_steps=0
)
ALL: dict[str, Any] = {
    "micro_batch_size": 1,
    "validation": ValidationSettings(every_steps=2),
    "objective": Objective(cross_entropy=0.3),
    "hidden": HiddenMatch(loss=CosineLoss(), weight=0.5, pairs=((2, 2), (7, 7))),
}
WATCHED: dict[str, Any] = {
    "optim": "adamw_torch",
    "learning_rate": "auto",
    "micro_batch_size": 2,
    "validation": ValidationSettings(every_steps=1),
}


def make_student() -> Any:
    return make_tiny_model(make_tiny_shape(hybrid_override_pattern="M-*M-M*-"))


def make_teacher(*, sharded: bool = False) -> OnlineTeacher:
    return OnlineTeacher(make_tiny_model(make_tiny_shape(), seed=1), sharded=sharded)


def token_ids(sequences: int, *, seed: int) -> Any:
    return np.random.default_rng(seed).integers(3, 271, (sequences, SEQ_LEN), dtype=np.int32)


def uneven_mask() -> LossMask:
    """Of each sequence another share counts: all tokens, few, none, those of one part alone."""
    rng = np.random.default_rng(1)
    shares_N = np.resize([1.0, 0.1, 0.6, 0.0, 0.05, 0.9], STEPS * BATCH)
    counted_NT = rng.random((STEPS * BATCH, SEQ_LEN)) < shares_N[:, None]
    counted_NT[2, :14] = False
    return counted_NT


def run(way: str, output: Path, ranks: Ranks, *, context_parallel: int) -> None:
    """Distills in one way and writes curve and weights from the first process."""
    kind, *more = way.split("-")
    sharded, watched = "fsdp2" in more, kind == "watched"
    settings = SETTINGS.model_copy(update=WATCHED if watched else ALL)
    changes = {"context_parallel": context_parallel, "sharding": "fsdp2" if sharded else "ddp"}
    recomputed = {"gradient_checkpointing": not watched and context_parallel > 1}
    ids_NT = token_ids(STEPS * BATCH + 1, seed=0)[: STEPS * BATCH + watched]  # one too many for whole steps
    student, teacher = make_student(), make_teacher(sharded=sharded)
    record = distill(
        student,
        teacher,
        ids_NT if watched else PackedText(ids_NT=ids_NT, counted_NT=uneven_mask()),
        settings.model_copy(update={**changes, **recomputed}),
        TrainingRun(state_folder=output / f"{way}-{ranks.world_size}-state", seed=0, ranks=ranks),
        ValidationText(sequences_NT=token_ids(3, seed=5), teacher=teacher),
    )
    weights = whole_state(student)
    if ranks.is_main:
        torch.save(weights, output / f"{way}-{ranks.world_size}.pt")
        (output / f"{way}-{ranks.world_size}.json").write_text(json.dumps(asdict(record)))
    ranks.barrier()


def main(output: Path, ways: tuple[str, ...], context_parallel: int) -> None:
    torch.set_num_threads(1)
    ranks = Ranks("cpu")
    for way in ways:
        run(way, output, ranks, context_parallel=context_parallel)
