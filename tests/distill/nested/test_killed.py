"""A training of nested students that is killed by SIGKILL ends with the weights of one that never was."""

import random
from pathlib import Path

import pytest
import torch

from minitron.checkpoints.students import read_students
from minitron.cli.main import main
from minitron.pipeline.runner import run_pipeline
from minitron.recipe.load import load_recipe
from minitron.runtime.loading import load_model
from tests.support import processes
from tests.support.kills import kill_at

KILLS, STEPS = 3, 60
OVERRIDES = (
    "search.hidden_size=[18]",
    "search.num_hidden_layers=[7]",
    "prune.repair={samples: 2}",
    "distill.students=[{name: medium, shape: {hidden_size: 14}, share: 2}, "
    "{name: small, shape: {hidden_size: 11, mamba_num_heads: 4, num_hidden_layers: 5}}]",
    f"distill.tokens={STEPS * 32}",
    "distill.save_steps=2",
)


def progress(folder: Path) -> int:
    """Steps behind the newest state."""
    states = folder.glob("distill.partial/state/*/checkpoint-*")
    return max((int(path.name.rpartition("-")[2]) for path in states), default=0)


@pytest.mark.slow
@pytest.mark.processes
def test_kills_change_no_weight_of_any_student(tmp_path: Path, recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path, OVERRIDES)
    for name in ("whole", "killed"):
        list(run_pipeline(recipe, tmp_path / name, last="prune"))
    list(run_pipeline(recipe, tmp_path / "whole", last="distill"))
    rng, folder = random.Random(0), tmp_path / "killed"
    overrides = [part for override in OVERRIDES for part in ("--set", override)]
    words = ["distill", str(recipe_path), "--output", str(folder), *overrides]
    targets = sorted(rng.sample(range(2, STEPS - 10, 2), KILLS))
    kill_at(words, targets, progress, folder, rng=rng)
    assert processes.run(main, words) == 0
    found, expected = (tmp_path / name / "distill" / "checkpoint" for name in ("killed", "whole"))
    assert read_students(found) == read_students(expected)
    for name in ("medium", "small"):
        corrections = (folder / "students" / f"{name}.safetensors" for folder in (found, expected))
        assert next(corrections).read_bytes() == next(corrections).read_bytes(), name
    weights = load_model(expected).state_dict()
    for name, weight in load_model(found).state_dict().items():
        assert torch.equal(weight, weights[name]), name
