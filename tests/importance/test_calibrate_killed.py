"""`minitron score` killed by the system at twenty random moments ends with the same bits."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minitron.importance.scores import load_scores
from tests.support.paths import ROOT, TEACHER
from tests.support.samples import assert_identical

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("way", [[], ["--layerwise"]], ids=["memory", "layerwise"])
def test_twenty_kills_change_no_score(tmp_path: Path, way: list[str]) -> None:
    text = tmp_path / "text.txt"
    shutil.copy(ROOT / "README.md", text)

    def command(output: Path) -> list[str]:
        settings = ["--samples", "24", "--seq-len", "256", "--batch-size", "1", "--set", "save_every=1"]
        depth = ["--set", "depth.scorer=logit_mse", "--set", "depth.remove=2", "--set", "depth.samples=4"]
        arguments = [str(TEACHER), "--data", str(text), "--output", str(output), *settings, *depth, *way]
        return [sys.executable, "-m", "minitron", "score", *arguments]

    started = time.monotonic()
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    seconds = time.monotonic() - started
    rng = random.Random(0)
    kills, interrupted = 0, tmp_path / "interrupted"
    while kills < 20:
        process = subprocess.Popen(command(interrupted), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(0.3, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert process.returncode == 0
        assert_identical(
            load_scores(interrupted / "scores.safetensors"), load_scores(tmp_path / "whole" / "scores.safetensors")
        )
        shutil.rmtree(interrupted)
    subprocess.run(command(interrupted), check=True, capture_output=True)
    assert_identical(
        load_scores(interrupted / "scores.safetensors"), load_scores(tmp_path / "whole" / "scores.safetensors")
    )
