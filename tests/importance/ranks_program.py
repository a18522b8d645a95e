"""Run in every process of a launch: calibrates with each set of settings as one of several, and saves the scores."""

import os
from pathlib import Path

import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.distributed import Ranks
from minitron.importance.calibrate import calibrate
from minitron.importance.scores import save_scores
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack, MemoryStack
from tests.support.rank_settings import ALL_SETTINGS, samples_of


def main(checkpoint: Path, output: Path, names: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    ranks = Ranks()
    assert ranks.world_size == int(os.environ["WORLD_SIZE"]) == 2
    opened = open_checkpoint(checkpoint)
    loaded = MemoryStack(load_model(checkpoint), opened.shape)
    for way in ("memory", "layerwise"):
        for name in names:
            for padded in (False, True):
                stack = LayerwiseStack(opened) if way == "layerwise" else loaded
                scores = calibrate(stack, samples_of(checkpoint, padded=padded), ALL_SETTINGS[name], ranks=ranks)
                save_scores(scores, output / f"{way}-{name}-{padded}-{ranks.rank}.safetensors")
