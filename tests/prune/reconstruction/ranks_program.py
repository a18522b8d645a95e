"""Run in every process of a launch: repairs a tiny model as one of several, and saves what each process has found."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.data.samples import Samples
from minitron.distributed import Ranks
from minitron.prune.in_memory import prune_model
from minitron.prune.norm_compensation import norm_scales
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.block_refit import sum_gradients
from minitron.prune.reconstruction.blockwise import repair
from minitron.prune.reconstruction.moments import Moments
from minitron.prune.reconstruction.settings import RepairSettings
from minitron.runtime.loading import load_model
from minitron.runtime.stack import MemoryStack
from tests.support.plans import make_plan
from tests.support.repairs import make_samples

# Name of a way -> settings, and whether samples are padded. Ten samples: no number of batches here is a multiple of 2.
WAYS = {
    "outputs": (RepairSettings(projections="outputs", batch_size=4), False),
    "all": (RepairSettings(batch_size=4), True),
    "single samples": (RepairSettings(batch_size=1), True),
    "one batch": (RepairSettings(batch_size=16), True),
    "epochs": (RepairSettings(batch_size=4, epochs=2), True),
    "epochs of pairs": (RepairSettings(batch_size=2, epochs=1), True),
}
DIMS = (4, 7)  # of targets and inputs
COUNT = 5  # of batches of activations


def repaired(checkpoint: Path, way: str, ranks: Ranks | None = None) -> dict[str, torch.Tensor]:
    """The weights that a repair gives, by name on disk."""
    settings, padded = WAYS[way]
    teacher = load_model(checkpoint)
    plan = make_plan(open_checkpoint(checkpoint).shape)
    stacks = MemoryStack(teacher, plan.source), MemoryStack(prune_model(teacher, plan), plan.target)
    pair = Alignment(teacher=stacks[0], student=stacks[1], plan=plan)
    found = repair(pair, samples_of(padded), settings, ranks=ranks)
    return {name: weight.clone() for name, weight in found}


def samples_of(padded: bool) -> Samples:
    return make_samples(padded=padded)


def factors(checkpoint: Path, ranks: Ranks | None = None) -> dict[str, torch.Tensor]:
    """The factors of norms, by name on disk."""
    shape = open_checkpoint(checkpoint).shape
    stack = MemoryStack(load_model(checkpoint), shape)
    found = norm_scales(stack, samples_of(True), make_plan(shape), batch_size=4, ranks=ranks)
    return {name: torch.tensor(scale, dtype=torch.float64) for name, scale in found.items()}


def activations() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(targets, inputs, mask) of every batch."""
    rng = np.random.default_rng(2)
    return [
        (
            *(torch.from_numpy(rng.normal(size=(2, 3 + number, dim))).float() for dim in DIMS),
            torch.from_numpy(rng.random((2, 3 + number)) > 0.4),
        )
        for number in range(COUNT)
    ]


def summed_moments(own: Iterable[int], ranks: Ranks) -> dict[str, torch.Tensor]:
    """Moments of some batches here, and of other ones in other processes."""
    moments, batches = Moments(), activations()
    for number in own:
        *both, mask = batches[number]
        moments.update(tuple(both), mask)
    moments.sum_over(ranks)
    return dict(moments.state)


def summed_gradients(ranks: Ranks) -> dict[str, torch.Tensor]:
    """Gradients of three parameters: one has them everywhere, one in the last process alone, one nowhere."""
    parameters = [nn.Parameter(torch.zeros(size)) for size in (2, 3, 5)]
    parameters[0].grad = torch.arange(2.0) + ranks.rank
    if ranks.rank == ranks.world_size - 1:
        parameters[1].grad = torch.full((3,), 7.0)
    sum_gradients(parameters, ranks)
    return {str(at): one.grad for at, one in enumerate(parameters) if one.grad is not None}


def main(checkpoint: Path, output: Path, ways: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    ranks = Ranks()
    found: dict[str, Any] = {way: repaired(checkpoint, way, ranks) for way in ways}
    found["factors"] = factors(checkpoint, ranks)
    found["moments"] = summed_moments(range(ranks.rank, COUNT, ranks.world_size), ranks)
    found["moments of the first process"] = summed_moments(range(COUNT) if ranks.is_main else (), ranks)
    found["gradients"] = summed_gradients(ranks)
    if ranks.is_main:  # the others are at their end: what this one does by itself must not wait for them
        found["alone"] = repaired(checkpoint, "all")
    torch.save(found, output / f"found-{ranks.rank}.pt")
