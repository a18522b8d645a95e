"""Run in both processes of a launch: calibrates; one of them may end at once around its n-th saved state."""

import os
from pathlib import Path

import torch

from minitron.artifacts.resume import SavedState
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.distributed import Ranks
from minitron.importance.calibrate import calibrate
from minitron.importance.scores import save_scores
from minitron.importance.settings import CalibrationSettings, DepthSettings, WidthSettings
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack, MemoryStack
from tests.support.samples import make_samples


def main(checkpoint: Path, output: Path, way: str, victim: int, saves: int, when: str) -> None:
    torch.set_num_threads(1)
    ranks = Ranks()
    save = SavedState.save_tensors
    done = 0

    def stop_around(self: SavedState, name: str, state: dict[str, torch.Tensor]) -> None:
        nonlocal done
        done += 1
        if ranks.rank == victim and done == saves and when == "before":
            os._exit(9)
        save(self, name, state)
        if ranks.rank == victim and done == saves:
            os._exit(9)

    SavedState.save_tensors = stop_around  # type: ignore[method-assign]
    opened = open_checkpoint(checkpoint)
    loaded = MemoryStack(load_model(checkpoint), opened.shape)
    stack = LayerwiseStack(opened) if way == "layerwise" else loaded
    settings = CalibrationSettings(
        width=WidthSettings.uniform("output_energy"),
        depth=DepthSettings(scorer="logit_mse", remove=3, batches_at_once=1),
        batch_size=1,
        save_every=1,
    )
    scores = calibrate(stack, make_samples(padded=True), settings, ranks=ranks, state_folder=output / "state")
    save_scores(scores, output / f"scores-{ranks.rank}.safetensors")
