"""`minitron score` killed by the system at twenty random moments ends with the same bits."""

import random
import shutil
import time
from pathlib import Path

import pytest

from minitron.cli.main import main
from minitron.importance.scores import load_scores
from tests.support import processes
from tests.support.paths import ROOT, TEACHER
from tests.support.samples import assert_identical

pytestmark = [pytest.mark.slow, pytest.mark.processes]


@pytest.mark.parametrize("way", [[], ["--layerwise"]], ids=["memory", "layerwise"])
def test_twenty_kills_change_no_score(tmp_path: Path, way: list[str]) -> None:
    text = tmp_path / "text.txt"
    shutil.copy(ROOT / "README.md", text)

    def words(output: Path) -> list[str]:
        settings = ["--samples", "24", "--seq-len", "128", "--batch-size", "1", "--set", "save_every=1"]
        depth = ["--set", "depth.scorer=logit_mse", "--set", "depth.remove=2", "--set", "depth.samples=4"]
        arguments = [str(TEACHER), "--data", str(text), "--output", str(output), *settings, *depth, *way]
        return ["score", *arguments]

    started = time.monotonic()
    assert processes.run(main, words(tmp_path / "whole")) == 0
    seconds = time.monotonic() - started
    rng = random.Random(0)
    kills, interrupted = 0, tmp_path / "interrupted"
    while kills < 20:
        process = processes.start(main, words(interrupted))
        process.join(timeout=rng.uniform(0.1, 1.0) * seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
            continue
        assert process.exitcode == 0
        assert_identical(
            load_scores(interrupted / "scores.safetensors"), load_scores(tmp_path / "whole" / "scores.safetensors")
        )
        shutil.rmtree(interrupted)
    assert processes.run(main, words(interrupted)) == 0
    assert_identical(
        load_scores(interrupted / "scores.safetensors"), load_scores(tmp_path / "whole" / "scores.safetensors")
    )
