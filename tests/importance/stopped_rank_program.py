"""Run in both processes of a launch: calibrates; one of them may end at once around its n-th saved state."""

import os
from pathlib import Path

import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.distributed import Ranks
from minitron.importance.calibrate import CalibrationSettings, calibrate
from minitron.importance.depth.greedy import LogitDepth
from minitron.importance.scorers import SCORERS
from minitron.importance.scorers.scorer import SCORED_AXES
from minitron.importance.scores import save_scores
from minitron.importance.state import StateFile
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack, MemoryStack
from tests.support.samples import make_samples


def main(checkpoint: Path, output: Path, way: str, victim: int, saves: int, when: str) -> None:
    torch.set_num_threads(1)
    ranks = Ranks()
    save = StateFile.save
    done = 0

    def stop_around(self: StateFile, state: dict[str, torch.Tensor]) -> None:
        nonlocal done
        done += 1
        if ranks.rank == victim and done == saves and when == "before":
            os._exit(9)
        save(self, state)
        if ranks.rank == victim and done == saves:
            os._exit(9)

    StateFile.save = stop_around  # type: ignore[method-assign]
    opened = open_checkpoint(checkpoint)
    loaded = MemoryStack(load_model(checkpoint), opened.shape)
    stack = LayerwiseStack(opened) if way == "layerwise" else loaded
    settings = CalibrationSettings(
        width=dict.fromkeys(SCORED_AXES, SCORERS["output_energy"]()),
        depth=LogitDepth(remove=3),
        batch_size=1,
        depth_chunk=1,
        save_every=1,
    )
    scores = calibrate(stack, make_samples(padded=True), settings, ranks=ranks, state_folder=output / "state")
    save_scores(scores, output / f"scores-{ranks.rank}.safetensors")
