"""The benchmarks start, and those that take a recipe take any."""

import importlib
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


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


@pytest.fixture
def recovery(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return benchmark("recovery", monkeypatch)


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


@pytest.fixture
def predictors(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return benchmark("predictors", monkeypatch)


def test_predictors_measures_every_candidate_once_and_goes_on_where_it_was_stopped(
    predictors: ModuleType, recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictors, "LEAST_SHARE", 0.5)
    words = ["predictors.py", str(recipe_path), "--folder", str(tmp_path / "run"), "--candidates", "3"]
    words += ["--short", "64", "--tokens", "128", "--set", "prune.repair={samples: 4}"]
    monkeypatch.setattr(sys, "argv", words)
    predictors.main()
    found = json.loads((tmp_path / "run" / "predictors.json").read_text())
    assert len(found["ends"]) == 3
    names = [row["predictor"] for row in found["predictors"]]
    assert names == ["importance", "largest", "zero-shot", "repaired", "64 tokens"]
    measured = (tmp_path / "run" / "measured.json").read_text()
    monkeypatch.setattr(predictors, "train_candidate", None)  # whatever is measured again fails
    predictors.main()
    assert (tmp_path / "run" / "measured.json").read_text() == measured
    assert json.loads((tmp_path / "run" / "predictors.json").read_text()) == found


def test_a_predictor_is_compared_by_its_order_and_by_where_its_choice_ends(predictors: ModuleType) -> None:
    ends = [0.2, 0.1, 0.4, 0.3]

    def compared(values: list[float]) -> dict[str, float]:
        found: dict[str, float] = predictors.Predictor(name="one", values=values, seconds=1.0).compare(ends)
        return found

    same = compared([2.0, 1.0, 9.0, 3.0])
    assert (same["spearman"], same["kendall"], same["choice_to_best"]) == pytest.approx((1, 1, 1))
    # One neighboring pair of six is exchanged: (6 - 2) / 6, and 1 - 6 * 2 / (4 * 15).
    near = compared([1.0, 2.0, 9.0, 3.0])
    assert (near["spearman"], near["kendall"], near["choice_to_best"]) == pytest.approx((0.8, 2 / 3, 2))
    assert compared([-2.0, -1.0, -9.0, -3.0])["spearman"] == pytest.approx(-1)
