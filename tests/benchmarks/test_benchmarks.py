"""The benchmarks start, and those that take a recipe take any."""

import json
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.paths import ROOT

BENCHMARKS = ROOT / "benchmarks"
PROGRAMS = sorted(path for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text())


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_benchmark_starts_and_says_what_it_takes(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert path.name in capsys.readouterr().out


@pytest.fixture
def recovery(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import recovery  # type: ignore[import-not-found]

    found: ModuleType = recovery
    return found


def test_recovery_takes_a_recipe_without_a_task(
    recovery: ModuleType, recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = tmp_path / "answer.json"
    words = ["recovery.py", str(recipe_path), "--seeds", "0", "--set", "evaluate.task=null", "--json", str(answer)]
    monkeypatch.setattr(sys, "argv", words)
    recovery.main()
    found = json.loads(answer.read_text())["0"]
    assert list(found) == list(recovery.ARMS)
    assert not any("exact_match" in arm for arm in found.values())
    assert found["minitron"]["before"]["kl_to_teacher"] > 0
