"""One of two processes is stopped around one of its saved states; started again, both end with the same bits."""

from pathlib import Path

import pytest

from minitron.importance.scores import load_scores
from tests.importance import stopped_rank_program
from tests.support.models import write_tiny_checkpoint
from tests.support.processes import run_ranks
from tests.support.samples import assert_identical

pytestmark = [pytest.mark.slow, pytest.mark.processes]

NEVER = 10_000


def launch(checkpoint: Path, output: Path, way: str, victim: int, saves: int, when: str) -> bool:
    """Whether every process ended well."""
    output.mkdir(exist_ok=True)
    return run_ranks(stopped_rank_program.main, checkpoint, output, way, victim, saves, when, log=output) == [0, 0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("teacher") / "teacher")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    output = tmp_path_factory.mktemp("whole")
    for way in ("memory", "layerwise"):
        assert launch(checkpoint, output / way, way, 0, NEVER, "before")
    return output


# Of the five samples one process has three and the other two. In memory they save after each sample, then after each
# chunk and at the end of three sweeps; layerwise after each of eight blocks, then the same.
@pytest.mark.parametrize(("way", "saves"), [("memory", 2), ("memory", 7), ("layerwise", 3), ("layerwise", 12)])
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_stopped_process_changes_no_score(
    checkpoint: Path, whole: Path, tmp_path: Path, way: str, saves: int, victim: int, when: str
) -> None:
    assert not launch(checkpoint, tmp_path, way, victim, saves, when)
    assert launch(checkpoint, tmp_path, way, 0, NEVER, "before")
    for rank in (0, 1):
        name = f"scores-{rank}.safetensors"
        assert_identical(load_scores(tmp_path / name), load_scores(whole / way / name))
