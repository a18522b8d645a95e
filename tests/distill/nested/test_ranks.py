"""Nested students train alike in one process, in two, and in trainings that stop and go on."""

import json
from pathlib import Path

import pytest
import torch

from tests.distill.nested import ranks_program
from tests.support.processes import run_ranks

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("nested-ranks")
    for ways, world_size in ((("single", "single-stopped"), 1), (("ddp", "ddp-stopped"), 2)):
        codes = run_ranks(ranks_program.main, output, ways, world_size=world_size, log=output)
        assert codes == [0] * world_size, (output / "rank-0.err").read_text()
    return output


@pytest.mark.parametrize("way", ["ddp", "ddp-stopped"])
def test_two_processes_train_to_the_loss_and_weights_of_one(trained: Path, way: str) -> None:
    expected, found = (json.loads((trained / f"{name}.json").read_text()) for name in ("single", way))
    assert (expected["processes"], found["processes"]) == (1, 2)
    for (at, loss), (expected_at, expected_loss) in zip(found["curve"], expected["curve"], strict=True):
        assert (at, loss) == (expected_at, pytest.approx(expected_loss, rel=1e-5))
    weights, expected_weights = (torch.load(trained / f"{name}.pt") for name in (way, "single"))
    assert weights.keys() == expected_weights.keys()
    for name, weight in expected_weights.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=5e-5, msg=name)


def test_a_training_that_stops_and_goes_on_is_exact(trained: Path) -> None:
    weights, expected = (torch.load(trained / f"{name}.pt") for name in ("single-stopped", "single"))
    for name, weight in expected.items():
        assert torch.equal(weights[name], weight), name
