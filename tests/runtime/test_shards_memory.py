"""Measured: a process that reads and writes a model in shards holds its share of it, and little beside."""

import json
import shutil
from pathlib import Path

import pytest

from minitron.checkpoints.checkpoint import open_checkpoint
from tests.runtime import shards_memory_program
from tests.support.processes import run, run_ranks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.processes,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from /proc"),
]
# Of the whole model, beside a process's share.
ALLOWED = 0.2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 MB of random weights in fp32, in several files."""
    folder = tmp_path_factory.mktemp("memory") / "model"
    assert run(shards_memory_program.write, folder) == 0
    assert 5.5e8 < open_checkpoint(folder).weights_bytes < 7e8
    return folder


def peaks(checkpoint: Path, way: str, *, processes: int) -> dict[str, list[float]]:
    """What each process grew by at most, in shares of the model."""
    codes = run_ranks(shards_memory_program.main, checkpoint, way, world_size=processes, log=checkpoint.parent)
    assert codes == [0] * processes, (checkpoint.parent / "rank-0.err").read_text()
    shutil.rmtree(checkpoint.parent / way)
    reports = [json.loads(path.read_text()) for path in sorted(checkpoint.parent.glob(f"{way} {processes} *.json"))]
    assert len(reports) == processes
    whole = open_checkpoint(checkpoint).weights_bytes
    return {key: [report[key] / whole for report in reports] for key in ("reading", "writing", "held")}


@pytest.mark.parametrize("processes", [2, 3])
def test_a_process_holds_its_share_and_little_beside(checkpoint: Path, processes: int) -> None:
    found = peaks(checkpoint, "shards", processes=processes)
    share = 1 / processes
    assert min(found["held"]) > 0.9 * share  # else the measure sees nothing
    assert max(*found["reading"], *found["writing"]) < share + ALLOWED, found


def test_processes_that_load_and_gather_everything_are_seen(checkpoint: Path) -> None:
    found = peaks(checkpoint, "whole", processes=2)
    assert min(found["reading"]) > 1 / 2 + ALLOWED, found
    assert found["writing"][0] > 1 / 2 + ALLOWED, found
