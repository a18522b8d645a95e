"""`minitron forecast` on a tiny teacher: measured once, resumed, inside what was measured, drawn and reported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import minitron
from minitron.artifacts.json_files import read_record
from minitron.cli.main import main
from minitron.forecast.record import ForecastRecord
from minitron.pipeline.candidates.bench import Bench
from minitron.pipeline.candidates.saved import MEASURED_FILE
from minitron.pipeline.run_folder import RunFolder
from tests.pipeline.conftest import WholeRun
from tests.support.commands import fail

Begun = Callable[[str, str], Path]

FEW = ("forecast.levels=2", "forecast.mixes=5", "forecast.confidence=0.7")
REPAIRED = (*FEW, "prune.repair={samples: 6, batch_size: 2}")
SET = [word for override in FEW for word in ("--set", override)]


def count_measured(monkeypatch: pytest.MonkeyPatch, *, most: int | None = None) -> list[Any]:
    """What is measured from here on; after `most` the user stops it."""
    real, measured = Bench.measure, []

    def measure(bench: Bench, candidate: Any) -> Any:
        if len(measured) == most:
            raise KeyboardInterrupt
        measured.append(candidate)
        return real(bench, candidate)

    monkeypatch.setattr(Bench, "measure", measure)
    return measured


@pytest.fixture(scope="module")
def forecast_run(whole_run: WholeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with a forecast of what it merely sliced."""
    folder = whole_run.copy_to(tmp_path_factory.mktemp("forecast") / "run", last="report")
    assert main(["forecast", str(whole_run.recipe_path), "--output", str(folder), *SET]) == 0
    return folder


@pytest.fixture
def copied(forecast_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(forecast_run, tmp_path / "copy"))


def test_what_was_measured_is_not_measured_again_and_json_is_what_is_written(
    whole_run: WholeRun, copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = count_measured(monkeypatch)
    assert main(["forecast", str(whole_run.recipe_path), "--output", str(copied), *SET, "--json"]) == 0
    assert not measured
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(RunFolder(copied).forecast.read_text())
    assert RunFolder(copied).forecast_picture.is_file()


def test_the_forecast_is_of_every_axis_and_keeps_to_the_budget(forecast_run: Path) -> None:
    found = read_record(RunFolder(forecast_run).forecast, ForecastRecord)
    assert [axis.axis for axis in found.axes] == ["layers", "hidden_size", "mamba_num_heads"]
    assert len(found.measured) == 1 + 2 + 2 + 5
    assert not found.repaired
    for axis in found.axes:
        sizes = [each.cut.total_bytes for each in axis.cuts]
        kls = [each.kl.predicted for each in axis.cuts if each.kl is not None]
        assert sizes == sorted(sizes, reverse=True)
        assert kls == sorted(kls)
    front = [(each.cut.total_bytes, each.kl.predicted) for each in found.front if each.kl is not None]
    assert front == sorted(front)
    assert [kl for _, kl in front] == sorted((kl for _, kl in front), reverse=True)
    assert found.best is not None
    assert found.best.cut.total_bytes <= found.budget_bytes


def test_repaired_candidates_are_measured_where_the_recipe_repairs_and_a_stopped_call_goes_on(
    recipe_path: Path, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun("run", "score")
    with monkeypatch.context() as patch:
        first = count_measured(patch, most=4)
        with pytest.raises(KeyboardInterrupt):
            minitron.forecast(recipe_path, output=folder, overrides=REPAIRED)
    (state,) = folder.rglob(MEASURED_FILE)
    assert len(json.loads(state.read_text())["repaired"]) == len(first) == 4
    assert not RunFolder(folder).forecast.exists()
    rest = count_measured(monkeypatch)
    found = minitron.forecast(recipe_path, output=folder, overrides=REPAIRED)
    assert found.repaired
    assert len(rest) == len(found.measured) - 4
    assert all(each.kl != each.zero_shot for each in found.measured)
    assert not list(folder.rglob(MEASURED_FILE))


def test_other_settings_measure_anew_and_a_budget_does_not(
    whole_run: WholeRun, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = count_measured(monkeypatch, most=0)
    minitron.forecast(whole_run.recipe_path, output=copied, overrides=(*FEW, "budget.memory_bytes=70000"))
    assert not measured
    with pytest.raises(KeyboardInterrupt):
        minitron.forecast(whole_run.recipe_path, output=copied, overrides=(*FEW, "forecast.mixes=6"))


def test_a_shape_is_predicted_inside_what_was_measured_and_refused_outside(
    whole_run: WholeRun, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = minitron.forecast(whole_run.recipe_path, output=copied, overrides=FEW, shape={"hidden_size": 18})
    (asked,) = found.asked
    assert asked.kl is not None
    assert asked.kl.low <= asked.kl.predicted <= asked.kl.high
    same = next(each for axis in found.axes for each in axis.cuts if each.cut.sizes == {"hidden_size": 18})
    assert asked == same
    words = ["forecast", str(whole_run.recipe_path), "--output", str(copied), *SET]
    said = fail(capsys, *words, "--shape", '{"hidden_size": 6}')
    assert "a forecast does not go beyond what was measured: it loses" in said
    assert "of the importance of hidden_size" in said


def test_tokens_to_a_kl_come_from_the_curve_of_the_distillation(
    whole_run: WholeRun, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = RunFolder(copied).record
    record = json.loads(path.read_text())
    kls = [0.05 + 0.2 * (1 + at / 64) ** -0.5 for at in range(0, 257, 32)]
    record["validation"]["curve"] = [[32 * step, kl] for step, kl in enumerate(kls)]
    path.write_text(json.dumps(record))
    devices = "devices={gpu: h100}"
    found = minitron.forecast(
        whole_run.recipe_path, output=copied, overrides=(*FEW, devices), kl=0.12, distilled=[copied]
    ).recovery
    assert found is not None
    assert found.tokens is not None
    assert 256 < found.tokens < 1024  # 0.05 + 0.2 * (1 + 459 / 64) ** -0.5 is 0.12
    assert found.hours == pytest.approx(found.tokens / found.tokens_per_s / 3600, rel=1e-2)  # tokens are whole
    assert found.gpu_hours is not None
    words = ["forecast", str(whole_run.recipe_path), "--output", str(copied), *SET]
    assert main([*words, "--kl", "0.01"]) == 0
    assert "is not reached within 1,024 tokens, 4 times those seen" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("distill.loss.temperature=2", "needs a curve of the forward KL, the recipe minimizes something else"),
        ("distill.loss.cross_entropy=1", "cross_entropy 1"),
    ],
)
def test_a_curve_of_something_else_is_refused(whole_run: WholeRun, copied: Path, override: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        minitron.forecast(whole_run.recipe_path, output=copied, overrides=(*FEW, override), kl=0.1)


def test_without_a_distillation_no_tokens_are_forecast(
    recipe_path: Path, begun: Begun, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["forecast", str(recipe_path), "--output", str(begun("run", "score")), *SET]
    assert "needs a distillation" in fail(capsys, *words, "--kl", "0.1")


@pytest.mark.figures
def test_the_report_has_the_picture_of_the_forecast(whole_run: WholeRun, copied: Path) -> None:
    minitron.run(whole_run.recipe_path, output=copied, first="report")
    assert (copied / "report" / "forecast.png").stat().st_size > 10_000
