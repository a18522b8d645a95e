"""Trainings whose shards are read from the files end as those whose processes load everything, and go on elsewhere."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from minitron.runtime.loading import load_model
from tests.distill.training import shards_program
from tests.support.folders import contents
from tests.support.models import make_moe_shape, write_tiny_checkpoint
from tests.support.processes import run_ranks

pytestmark = pytest.mark.processes


def train(folder: Path, *ways: str, processes: int) -> None:
    codes = run_ranks(shards_program.main, folder, *ways, world_size=processes, log=folder)
    assert codes == [0] * processes, (folder / "rank-0.err").read_text()


def record(folder: Path, way: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{way}.json").read_text())
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    write_tiny_checkpoint(folder / "teacher", shape=make_moe_shape())
    write_tiny_checkpoint(folder / "student", shape=make_moe_shape(hidden_size=18))
    train(folder, "loaded", "read", "half", processes=2)
    train(folder, "rest", processes=3)
    return folder


def test_what_is_read_in_shards_trains_to_the_bits_of_what_is_loaded_whole(trained: Path) -> None:
    expected, found = (record(trained, way) for way in ("loaded", "read"))
    assert expected["processes"] == found["processes"] == 2
    assert expected["curve"] == found["curve"]
    files = [contents(trained / way / "checkpoint") for way in ("loaded", "read", "half")]
    assert files[0] == files[1] != files[2]


def test_a_training_of_two_processes_goes_on_in_three(trained: Path) -> None:
    expected, found = (record(trained, way) for way in ("read", "rest"))
    assert (record(trained, "half")["processes"], found["processes"]) == (2, 3)
    assert len(found["curve"]) == len(expected["curve"])
    for point, one in zip(found["curve"], expected["curve"], strict=True):
        assert point == pytest.approx(one, rel=1e-5)
    before, whole, gone_on = (
        load_file(trained / way / "checkpoint" / "model.safetensors") for way in ("half", "read", "rest")
    )
    for name, weight in whole.items():
        torch.testing.assert_close(gone_on[name], weight, rtol=0, atol=5e-5, msg=name)
    assert max(float((weight - before[name]).abs().max()) for name, weight in whole.items()) > 5e-4


def test_what_was_written_from_shards_is_loaded_by_transformers(trained: Path) -> None:
    assert torch.isfinite(load_model(trained / "rest" / "checkpoint")(torch.arange(3, 20)[None]).logits).all()
