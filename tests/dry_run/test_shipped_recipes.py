"""Every shipped recipe of a true size is forecast from its teacher's configuration alone."""

from pathlib import Path
from typing import Any

import pytest

from minitron.cli.main import main
from minitron.recipe.load import load_recipe
from tests.support.dry_runs import commands, forecast
from tests.support.paths import ROOT

RECIPES = sorted((ROOT / "examples" / "recipes").glob("*.yaml"))
TEACHERS = {
    "nano-12b-to-9b": 12_310_001_152,
    "nano-12b-to-9b-h200": 12_310_001_152,
    "nano-9b-to-7b": 8_888_227_328,
    "one-gpu-24gb": 4_489_223_040,
}
TWO_STEPS = ["depth", "depth_distill", "score", "search", "prune", "distill", "evaluate", "report"]
ONE_STEP = ["score", "search", "prune", "cache", "distill", "evaluate", "report"]


@pytest.fixture(params=RECIPES, ids=lambda path: path.stem)
def shipped(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> tuple[Path, dict[str, Any]]:
    return request.param, forecast(capsys, request.param)


def trainings(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [training for stage in found["stages"] for training in stage["trainings"]]


def test_all_of_them_are_here() -> None:
    assert {path.stem for path in RECIPES} == set(TEACHERS)


def test_its_teacher_stages_and_budget_are_known(shipped: tuple[Path, dict[str, Any]]) -> None:
    path, found = shipped
    assert found["shapes"]["teacher"]["params"] == TEACHERS[path.stem]
    assert [stage["name"] for stage in found["stages"]] == (ONE_STEP if path.stem == "one-gpu-24gb" else TWO_STEPS)
    if "12b" in path.stem:
        assert found["shapes"]["budget_bytes"] / 2**30 == pytest.approx(19.657, abs=5e-4)
        assert 8.87e9 < found["shapes"]["student"]["params"] < 8.9e9
    assert found["shapes"]["student"]["memory"]["total_bytes"] <= found["shapes"]["budget_bytes"]


def test_it_takes_hours_and_says_how_to_start(shipped: tuple[Path, dict[str, Any]]) -> None:
    path, found = shipped
    count = found["devices"]["count"]
    assert found["hours"] > 0
    assert all(training["hours"] > 0 < training["tokens"] for training in trainings(found))
    launched = commands(found)
    assert all(f"minitron run {path}" in command or "minitron distill" in command for command in launched)
    assert found["launch"][0]["stages"] == [stage["name"] for stage in found["stages"]]
    assert len(found["launch"]) == (1 if count == 8 else 2)
    assert any("--num_processes 8" in command for command in launched) == (count == 8)
    assert {Path(text).name for text in found["missing"]} == {
        "calibration.jsonl",
        "post-training.jsonl",
        "pretraining.parquet",
        "heldout.jsonl",
    }


def test_its_training_fits_its_devices_by_the_estimate_but_for_the_longest_published_blocks(
    shipped: tuple[Path, dict[str, Any]],
) -> None:
    path, found = shipped
    beyond = [(each["name"], each["seq_len"]) for each in trainings(found) if each["memory"]["verdict"] != "fits"]
    expected = [("longest", 262144), ("repair", 262144)] if path.stem == "nano-12b-to-9b" else []
    assert beyond == expected
    longest = [each["memory"]["longest_block_tokens"] for each in trainings(found) if each["seq_len"] > 98304]
    assert all(tokens >= 98304 for tokens in longest)  # as the recipe says


def test_the_longest_published_blocks_fit_sixteen_h200(capsys: pytest.CaptureFixture[str]) -> None:
    devices = ("--set", "devices={gpu: h200, nodes: 2, gpus_per_node: 8}")
    found = forecast(capsys, ROOT / "examples" / "recipes" / "nano-12b-to-9b.yaml", *devices)
    assert {each["memory"]["verdict"] for each in trainings(found)} == {"fits"}


def test_the_published_run_has_the_published_tokens_and_lengths(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(ROOT / "examples" / "recipes" / "nano-12b-to-9b.yaml")
    assert recipe.depth_first is not None
    assert (recipe.depth_first.distill.tokens, recipe.depth_first.distill.seq_len) == (60 * 10**9, 8192)
    stages = [(stage.tokens, stage.seq_len) for stage in recipe.distill.curriculum]
    assert stages == [(50 * 10**9, 8192), (25 * 10**9, 49152), (10**9, 262144), (4 * 10**8, 262144)]
    assert recipe.distill.merge == (0.5, 0.5)
    for section in (recipe.depth_first.distill, recipe.distill):
        assert [source.weight for source in section.data] == [0.7, 0.3]


def test_blocks_that_go_are_assumed_of_each_kind_in_proportion(capsys: pytest.CaptureFixture[str]) -> None:
    found = forecast(capsys, ROOT / "examples" / "recipes" / "nano-12b-to-9b.yaml")
    assert found["shapes"]["source"]["blocks"] == {"M": 26, "-": 26, "*": 4}
    low, high = found["shapes"]["params_by_blocks"]
    assert low < 11_386_496_128 < high  # as published: 27, 25 and 4


def test_what_processes_hold_of_their_models_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    found = forecast(capsys, ROOT / "examples" / "recipes" / "nano-12b-to-9b.yaml")
    shards = 4 * found["shapes"]["source"]["params"] + 2 * 12_310_001_152  # student and teacher, in all of a machine
    held = (shards + 8 * 4 * 131_072 * 5120) / 2**30  # and the embeddings in each process
    assert held < 90
    assert any(f"at most {held:.0f} GiB of a machine's own memory" in note for note in found["assumptions"])


def test_an_optimizer_of_another_library_says_what_installs_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(ROOT / "examples" / "recipes" / "one-gpu-24gb.yaml"), "--dry-run"]) == 0
    assert "pip install 'minitron[lowmem]'" in capsys.readouterr().out


def test_fp8_is_planned_without_torchao_and_counted_as_bf16(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "examples" / "recipes" / "nano-9b-to-7b.yaml"
    wide, narrow = (forecast(capsys, path, "--set", f"distill.precision={precision}") for precision in ("bf16", "fp8"))
    (note,) = set(narrow.pop("assumptions")) - set(wide.pop("assumptions"))
    assert note.startswith("precision fp8 is counted as bf16")
    assert "pip install 'minitron[lowmem]'" in note
    assert [stage["hours"] for stage in narrow["stages"]] == [stage["hours"] for stage in wide["stages"]]


def test_a_forecast_in_tables_says_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(ROOT / "examples" / "recipes" / "nano-12b-to-9b.yaml"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for said in ("12,310,001,152", "19.657 GiB", "distill longest", "8 x h100 at 40%", "the most at once"):
        assert said in printed
    assert max(len(line) for line in printed.splitlines() if line.startswith(("│", "┃"))) <= 120
