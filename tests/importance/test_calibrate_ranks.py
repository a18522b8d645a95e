"""On the quickstart's teacher: layerwise, in memory and two processes give the same scores, for every scorer.

Two scorers in every run of the tests, all others among the slow ones.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.importance.calibrate import calibrate
from minitron.importance.scores import Scores, load_scores
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack, MemoryStack
from tests.importance import ranks_program
from tests.support.paths import TEACHER
from tests.support.processes import run_ranks
from tests.support.rank_settings import ALL_SETTINGS, samples_of

pytestmark = pytest.mark.processes


ALWAYS = ("activation", "output_energy")
OTHERS = tuple(name for name in ALL_SETTINGS if name not in ALWAYS)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where two processes wrote the scores of some settings; they calibrate once for all of a kind."""
    folders: dict[tuple[str, ...], Path] = {}

    def folder_of(name: str) -> Path:
        together = ALWAYS if name in ALWAYS else OTHERS
        if together not in folders:
            output = tmp_path_factory.mktemp("ranks")
            assert run_ranks(ranks_program.main, TEACHER, output, together, log=output) == [0, 0]
            folders[together] = output
        return folders[together]

    return folder_of


@pytest.fixture(scope="module")
def loaded() -> MemoryStack:
    return MemoryStack(load_model(TEACHER), open_checkpoint(TEACHER).shape)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", [*ALWAYS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_three_ways_one_result(
    two_processes: Callable[[str], Path], loaded: MemoryStack, name: str, padded: bool
) -> None:
    checkpoint, samples = open_checkpoint(TEACHER), samples_of(TEACHER, padded=padded)
    expected = calibrate(loaded, samples, ALL_SETTINGS[name])
    found = {"layerwise": calibrate(LayerwiseStack(checkpoint), samples, ALL_SETTINGS[name])}
    for way in ("memory", "layerwise"):
        for rank in (0, 1):
            found[f"{way}, process {rank}"] = load_scores(
                two_processes(name) / f"{way}-{name}-{padded}-{rank}.safetensors"
            )
    for scores in found.values():
        assert_close(scores, expected)


def assert_close(found: Scores, expected: Scores) -> None:
    assert found.removed == expected.removed
    assert found.hidden_size is not None
    assert expected.hidden_size is not None
    np.testing.assert_allclose(found.hidden_size, expected.hidden_size, rtol=1e-5)
    np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-5)
    for axis in ("intermediate_size", "mamba", "num_attention_heads"):
        one, other = getattr(found, axis), getattr(expected, axis)
        assert list(one) == list(other)
        for layer in other:
            scale = float(np.abs(other[layer]).mean())  # off-diagonal energies cross zero
            np.testing.assert_allclose(one[layer], other[layer], rtol=1e-5, atol=1e-5 * scale)
