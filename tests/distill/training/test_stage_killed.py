"""A distillation that is killed at random points, by SIGKILL, ends with the weights of one that never was."""

import random
from pathlib import Path

import pytest
import torch

from minitron.cli.main import main
from minitron.pipeline.runner import run_pipeline
from minitron.recipe.load import load_recipe
from minitron.runtime.loading import load_model
from tests.support import processes
from tests.support.kills import kill_at

KILLS = 10
SHORT, LONG = 40, 80  # steps of the two stages
CURRICULUM = (
    "distill.tokens=null",
    "distill.save_steps=2",
    f"distill.phases=[{{name: short, tokens: {SHORT * 32}}}, "
    f"{{name: long, tokens: {LONG * 24}, seq_len: 24, batch_size: 1}}]",
)


def progress(folder: Path) -> int:
    """Steps behind the newest state, over both stages."""
    states = folder.glob("distill.partial/state/*/checkpoint-*")
    steps = [SHORT * (path.parent.name == "long") + int(path.name.rpartition("-")[2]) for path in states]
    return max(steps, default=0)


@pytest.mark.slow
@pytest.mark.processes
def test_ten_kills_change_no_weight(tmp_path: Path, recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path, CURRICULUM)
    for name in ("whole", "killed"):
        list(run_pipeline(recipe, tmp_path / name, last="prune"))
    list(run_pipeline(recipe, tmp_path / "whole", last="distill"))
    rng, folder = random.Random(0), tmp_path / "killed"
    overrides = [part for override in CURRICULUM for part in ("--set", override)]
    words = ["distill", str(recipe_path), "--output", str(folder), *overrides]
    targets = sorted(rng.sample(range(2, SHORT + LONG - 20, 2), KILLS))
    killed_at = kill_at(words, targets, progress, folder, rng=rng)
    assert killed_at[0] < SHORT < killed_at[-1], killed_at
    assert processes.run(main, words) == 0
    expected = load_model(tmp_path / "whole" / "distill" / "checkpoint").state_dict()
    for name, weight in load_model(folder / "distill" / "checkpoint").state_dict().items():
        assert torch.equal(weight, expected[name]), name
