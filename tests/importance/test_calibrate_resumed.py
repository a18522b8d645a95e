"""Interrupted calibrations: what was gathered is kept, and the scores end bit for bit the same."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.importance.calibrate import calibrate
from minitron.importance.settings import CalibrationSettings, DepthSettings, WidthSettings
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack, MemoryStack, Stack
from tests.support.samples import assert_identical, make_samples


class Stop(BaseException):
    """What a kill looks like from inside: nothing but files is left."""


def stopping(stack: Stack, after: int) -> Any:
    """The stack, whose `run` stops the process after so many calls."""
    calls = 0
    run = stack.run

    def stop(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Stop
        return run(*args)

    stack.run = stop  # type: ignore[method-assign]
    return stack


def open_stack(way: str, folder: Path) -> Stack:
    checkpoint = open_checkpoint(folder)
    return MemoryStack(load_model(folder), checkpoint.shape) if way == "memory" else LayerwiseStack(checkpoint)


@pytest.mark.parametrize("padded", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ["memory", "layerwise"])
@pytest.mark.parametrize("scorer", ["activation", "output_energy"])
def test_twenty_stops_at_random_points_change_no_score(
    tiny_checkpoint: Path, tmp_path: Path, way: str, scorer: Any, padded: bool
) -> None:
    samples = make_samples(padded=padded)
    settings = CalibrationSettings(
        width=WidthSettings.uniform(scorer),
        depth=DepthSettings(scorer="logit_mse", remove=2, keep_attention=1, trials_at_once=3, batches_at_once=2),
        batch_size=2,
        save_every=2,
    )
    expected = calibrate(open_stack(way, tiny_checkpoint), samples, settings)
    rng = random.Random(f"{way} {scorer} {padded}")
    stops = 0
    while True:
        stack = open_stack(way, tiny_checkpoint)
        if stops < 20:
            stack = stopping(stack, after=rng.randint(0, 60 if stops > 3 else 5))
        try:
            found = calibrate(stack, samples, settings, state_folder=tmp_path / "state")
        except Stop:
            stops += 1
            continue
        break
    assert stops >= 5
    assert_identical(found, expected)


def test_work_that_was_saved_is_not_done_again(tiny_checkpoint: Path, tmp_path: Path) -> None:
    settings = CalibrationSettings(batch_size=1, save_every=1)
    samples = make_samples(padded=False)
    with pytest.raises(Stop):
        calibrate(stopping(open_stack("memory", tiny_checkpoint), 3), samples, settings, state_folder=tmp_path)
    calibrate(stopping(open_stack("memory", tiny_checkpoint), 2), samples, settings, state_folder=tmp_path)


def test_a_layerwise_calibration_goes_on_from_the_block_it_was_in(tiny_checkpoint: Path, tmp_path: Path) -> None:
    settings = CalibrationSettings(batch_size=5)
    samples = make_samples(padded=False)
    with pytest.raises(Stop):
        calibrate(stopping(open_stack("layerwise", tiny_checkpoint), 6), samples, settings, state_folder=tmp_path)
    calibrate(stopping(open_stack("layerwise", tiny_checkpoint), 2), samples, settings, state_folder=tmp_path)
