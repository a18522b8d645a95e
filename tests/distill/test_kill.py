"""A distillation that is killed at random points, by SIGKILL, ends with the weights of one that never was."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from minitron.hybrid.model import load_model
from minitron.pipeline import run_pipeline
from minitron.recipe import load_recipe

ROOT = Path(__file__).parents[2]
KILLS = 10
CURRICULUM = (
    "distill.tokens=null",
    "distill.save_steps=2",
    "distill.stages=[{name: short, tokens: 2560}, {name: long, tokens: 1920, seq_len: 24, batch_size: 1}]",
)


def newest_state(folder: Path) -> tuple[str, int] | None:
    states = folder.glob("distill.partial/state/*/checkpoint-*")
    steps = [(path.parent.name, int(path.name.rpartition("-")[2])) for path in states]
    return max(steps, key=lambda found: (found[0] == "long", found[1]), default=None)


@pytest.mark.slow
def test_ten_kills_change_no_weight(tmp_path: Path, recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path, CURRICULUM)
    for name in ("whole", "killed"):
        list(run_pipeline(recipe, tmp_path / name, last="prune"))
    list(run_pipeline(recipe, tmp_path / "whole", last="distill"))
    rng, folder, killed_at = random.Random(0), tmp_path / "killed", []
    overrides = [part for override in CURRICULUM for part in ("--set", override)]
    command = [sys.executable, "-m", "minitron", "distill", str(recipe_path), "--output", str(folder), *overrides]
    for _ in range(KILLS):
        before = newest_state(folder)
        process = subprocess.Popen(
            command, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
        )
        while newest_state(folder) == before:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "ended before it could be killed"
        killed_at.append(newest_state(folder))
    assert len(set(killed_at)) > KILLS // 2, killed_at
    assert {stage for stage, _ in filter(None, killed_at)} == {"short", "long"}, killed_at
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    expected = load_model(tmp_path / "whole" / "distill" / "checkpoint").state_dict()
    for name, weight in load_model(folder / "distill" / "checkpoint").state_dict().items():
        assert torch.equal(weight, expected[name]), name
