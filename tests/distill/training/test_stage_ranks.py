"""On the quickstart's student: one process, copies in two and shards in two train alike, masks uneven or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.paths import ROOT

PROGRAM = Path(__file__).with_name("ranks_program.py")
SHARED_WAYS = ("ddp", "ddp-stopped", "fsdp2", "fsdp2-stopped")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("ranks")
    two = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    for launcher, ways in (
        ([], ("single", "masked-8", "masked-2")),
        (two, (*SHARED_WAYS, "masked-4")),
    ):
        subprocess.run(
            [sys.executable, *launcher, str(PROGRAM), str(output), *ways],
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            timeout=300,
        )
    return output


@pytest.mark.parametrize("way", SHARED_WAYS)
def test_two_processes_train_to_the_loss_and_weights_of_one(trained: Path, way: str) -> None:
    expected, found = (json.loads((trained / f"{name}.json").read_text()) for name in ("single", way))
    assert (expected["processes"], found["processes"]) == (1, 2)
    assert [at for at, _ in found["curve"]] == [at for at, _ in expected["curve"]]
    for (_, loss), (_, expected_loss) in zip(found["curve"], expected["curve"], strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-5)
    weights, expected_weights = (torch.load(trained / f"{name}.pt") for name in (way, "single"))
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
