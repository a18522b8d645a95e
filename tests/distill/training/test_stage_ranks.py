"""On the quickstart's student: one process, copies in two and shards in two train alike, masks uneven or not.

Trainings that stop and go on are among the slow tests.
"""

import json
from pathlib import Path

import pytest
import torch

from tests.distill.training import ranks_program
from tests.support.processes import run_ranks

WATCHED = ("ddp-watched", "fsdp2-watched")

pytestmark = pytest.mark.processes


def train(output: Path, ways: tuple[str, ...], *, world_size: int) -> None:
    codes = run_ranks(ranks_program.main, output, ways, world_size=world_size, log=output)
    assert codes == [0] * world_size, (output / "rank-0.err").read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("ranks")
    train(output, ("single", "single-answers", "single-watched", "masked-8", "masked-2"), world_size=1)
    train(output, ("ddp", "fsdp2", "ddp-answers", "fsdp2-answers", *WATCHED, "masked-4"), world_size=2)
    return output


@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_two_processes_train_to_the_loss_and_weights_of_one(trained: Path, way: str) -> None:
    assert_trained_alike(trained, way)


@pytest.mark.parametrize("way", ["ddp-answers", "fsdp2-answers"])
def test_two_processes_train_to_the_loss_and_weights_of_one_where_answers_count(trained: Path, way: str) -> None:
    assert_trained_alike(trained, way, alone="single-answers")
    curve = json.loads((trained / f"{way}.json").read_text())["curve"]
    assert [loss == 0 for _, loss in curve] == [False, False, True, False]


@pytest.mark.parametrize("way", WATCHED)
def test_two_processes_search_the_rate_and_keep_the_state_that_one_does(trained: Path, way: str) -> None:
    assert_trained_alike(trained, way, alone="single-watched")
    assert_watched_alike(trained, way)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp-stopped", "fsdp2-stopped"])
def test_two_processes_that_stop_and_go_on_train_to_the_same(trained: Path, way: str) -> None:
    train(trained, (way,), world_size=2)
    assert_trained_alike(trained, way)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp-watched-stopped", "fsdp2-watched-stopped"])
def test_two_processes_that_stop_and_go_on_keep_the_same_state(trained: Path, way: str) -> None:
    train(trained, (way,), world_size=2)
    assert_trained_alike(trained, way, alone="single-watched")
    assert_watched_alike(trained, way)


def assert_watched_alike(trained: Path, way: str) -> None:
    expected, found = (json.loads((trained / f"{name}.json").read_text()) for name in ("single-watched", way))
    assert found["rate"]["rate"] == expected["rate"]["rate"]
    for trial, alone in zip(found["rate"]["trials"], expected["rate"]["trials"], strict=True):
        assert trial["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert found["validation"]["kept_tokens"] == expected["validation"]["kept_tokens"]
    for point, alone in zip(found["validation"]["curve"], expected["validation"]["curve"], strict=True):
        assert point == pytest.approx(alone, rel=1e-4)


def assert_trained_alike(trained: Path, way: str, *, alone: str = "single") -> None:
    expected, found = (json.loads((trained / f"{name}.json").read_text()) for name in (alone, way))
    assert (expected["processes"], found["processes"]) == (1, 2)
    assert [at for at, _ in found["curve"]] == [at for at, _ in expected["curve"]]
    for (_, loss), (_, expected_loss) in zip(found["curve"], expected["curve"], strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-5)
    weights, expected_weights = (torch.load(trained / f"{name}.pt") for name in (way, alone))
    assert weights.keys() == expected_weights.keys()
    for name, weight in expected_weights.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=5e-5, msg=name)


def test_eight_blocks_are_one_batch_however_they_are_shared_out(trained: Path) -> None:
    whole, accumulated, shared = (
        json.loads((trained / f"{name}.json").read_text()) for name in ("masked-8-1", "masked-2-1", "masked-4-2")
    )
    for found in (accumulated, shared):
        assert found == pytest.approx(whole, rel=1e-5)
    assert whole["divergence"] == pytest.approx(whole["loss"], rel=1e-6)
