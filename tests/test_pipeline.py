"""The whole pipeline on a tiny checkpoint: what it writes, what it skips, what it does again."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from minitron.cli import main
from minitron.hybrid.checkpoint import open_checkpoint
from minitron.hybrid.model import count_params
from minitron.pipeline import STAGE_NAMES as ALL_STAGES
from minitron.pipeline import run_pipeline
from minitron.recipe import Recipe, load_recipe
from minitron.stages import prune as prune_stage

STAGE_NAMES = tuple(name for name in ALL_STAGES if name != "depth")


def outcomes(recipe: Recipe, folder: Path, **options: Any) -> dict[str, bool]:
    return {outcome.name: outcome.skipped for outcome in run_pipeline(recipe, folder, **options)}


def test_a_run_ends_with_a_student_that_fits_and_loads_in_plain_transformers(
    tmp_path: Path, recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(recipe_path), "--output", str(tmp_path / "run"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    metrics, budget = result["metrics"], result["search"]["budget_bytes"]
    assert metrics["teacher"]["memory"]["total_bytes"] > budget >= metrics["distilled"]["memory"]["total_bytes"]
    assert metrics["teacher"]["kl_to_teacher"] == pytest.approx(0, abs=1e-6)
    assert set(metrics["distilled"]) >= {"loss", "kl_to_teacher", "exact_match", "params", "memory", "tokens_per_s"}
    student = tmp_path / "run" / "distill" / "checkpoint"
    model = AutoModelForCausalLM.from_pretrained(student)
    assert count_params(model) == open_checkpoint(student).params == result["search"]["candidates"][0]["params"]
    inputs = AutoTokenizer.from_pretrained(student)("line", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2, min_new_tokens=2).shape == (1, 6)
    assert (tmp_path / "run" / "report" / "summary.png").stat().st_size > 10_000


def test_a_second_run_skips_what_is_finished_and_a_change_reruns_what_it_touches(
    tmp_path: Path, recipe_path: Path
) -> None:
    folder = tmp_path / "run"
    assert outcomes(load_recipe(recipe_path), folder) == dict.fromkeys(STAGE_NAMES, False)
    assert outcomes(load_recipe(recipe_path), folder) == dict.fromkeys(STAGE_NAMES, True)
    changed = load_recipe(recipe_path, ("distill.learning_rate=0.002",))
    expected = {name: name in ("score", "search", "prune") for name in STAGE_NAMES}
    assert outcomes(changed, folder) == expected
    assert outcomes(changed, folder, first="evaluate") == {
        name: name not in ("evaluate", "report") for name in STAGE_NAMES
    }


def test_changed_data_under_the_same_name_is_noticed(tmp_path: Path, recipe_path: Path) -> None:
    folder = tmp_path / "run"
    outcomes(load_recipe(recipe_path), folder, last="search")
    (tmp_path / "text.txt").write_text("another text, long enough to fill the blocks " * 9)
    assert outcomes(load_recipe(recipe_path), folder, last="score") == {"score": False}


def test_a_stage_that_fails_is_done_again_and_earlier_ones_are_kept(
    tmp_path: Path, recipe_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, recipe = tmp_path / "run", load_recipe(recipe_path)

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(prune_stage, "save_plan", fail)
        outcomes(recipe, folder)
    assert not (folder / "prune").exists()
    assert outcomes(recipe, folder, last="prune") == {"score": True, "search": True, "prune": False}


def test_two_runs_of_one_seed_agree(tmp_path: Path, recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    for name in ("a", "b"):
        outcomes(recipe, tmp_path / name, last="distill")
    weights = [(tmp_path / name / "distill" / "checkpoint" / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
