"""The whole pipeline on a tiny checkpoint: what it writes, what it skips, what it does again."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.cli.main import main
from minitron.pipeline import pruning
from minitron.pipeline.runner import run_pipeline
from minitron.pipeline.stage_list import STAGE_NAMES as ALL_STAGES
from minitron.recipe.load import load_recipe
from minitron.recipe.recipe import Recipe
from minitron.runtime.loading import count_params
from tests.pipeline.conftest import WholeRun
from tests.support.models import make_dense_shape, make_moe_shape
from tests.support.recipes import write_tiny_recipe

Begun = Callable[[str, str], Path]
OPTIONAL = ("vocabulary", "correct", "depth", "depth_distill", "cache")
STAGE_NAMES = tuple(name for name in ALL_STAGES if name not in OPTIONAL)


def outcomes(recipe: Recipe, folder: Path, **options: Any) -> dict[str, bool]:
    return {outcome.name: outcome.skipped for outcome in run_pipeline(recipe, folder, **options)}


@pytest.mark.figures
def test_a_run_ends_with_a_student_that_fits_and_loads_in_plain_transformers(
    tmp_path: Path, recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(recipe_path), "--output", str(tmp_path / "run"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    metrics, budget = result["metrics"], result["search"]["budget_bytes"]
    assert metrics["teacher"]["memory"]["total_bytes"] > budget >= metrics["distilled"]["memory"]["total_bytes"]
    assert metrics["teacher"]["kl_to_teacher"] == pytest.approx(0, abs=1e-6)
    assert set(metrics["distilled"]) >= {"loss", "kl_to_teacher", "exact_match", "params", "memory", "speed"}
    student = tmp_path / "run" / "distill" / "checkpoint"
    model = AutoModelForCausalLM.from_pretrained(student)
    assert count_params(model) == open_checkpoint(student).params == result["search"]["candidates"][0]["params"]
    inputs = AutoTokenizer.from_pretrained(student)("line", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2, min_new_tokens=2).shape == (1, 6)
    assert (tmp_path / "run" / "report" / "summary.png").stat().st_size > 10_000


def test_a_second_run_skips_what_is_finished_and_a_change_reruns_what_it_touches(
    whole_run: WholeRun, begun: Begun
) -> None:
    assert whole_run.skipped == dict.fromkeys(STAGE_NAMES, False)
    folder, recipe_path = begun("run", "report"), whole_run.recipe_path
    assert outcomes(load_recipe(recipe_path), folder) == dict.fromkeys(STAGE_NAMES, True)
    changed = load_recipe(recipe_path, ("distill.learning_rate=0.002",))
    expected = {name: name in ("score", "search", "prune") for name in STAGE_NAMES}
    assert outcomes(changed, folder) == expected
    assert outcomes(changed, folder, first="evaluate") == {
        name: name not in ("evaluate", "report") for name in STAGE_NAMES
    }


def test_changed_data_under_the_same_name_is_noticed(tmp_path: Path, recipe_path: Path, begun: Begun) -> None:
    folder = begun("run", "search")
    assert outcomes(load_recipe(recipe_path), folder, last="score") == {"score": True}
    (tmp_path / "text.txt").write_text("another text, long enough to fill the blocks " * 9)
    assert outcomes(load_recipe(recipe_path), folder, last="score") == {"score": False}


def test_a_stage_that_fails_is_done_again_and_earlier_ones_are_kept(
    recipe_path: Path, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, recipe = begun("run", "search"), load_recipe(recipe_path)

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(pruning, "save_plan", fail)
        outcomes(recipe, folder)
    assert not (folder / "prune").exists()
    assert outcomes(recipe, folder, last="prune") == {"score": True, "search": True, "prune": False}


def test_two_runs_of_one_seed_agree(tmp_path: Path, recipe_path: Path, whole_run: WholeRun) -> None:
    outcomes(load_recipe(recipe_path), tmp_path / "other", last="distill")
    folders = (whole_run.folder, tmp_path / "other")
    weights = [(folder / "distill" / "checkpoint" / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]


def test_an_axis_that_the_teacher_does_not_have_is_refused(tmp_path: Path) -> None:
    path = write_tiny_recipe(tmp_path, make_dense_shape("llama"), {"mamba_num_heads": [4]})
    with pytest.raises(ValueError, match="search.mamba_num_heads must be an axis of the teacher, a llama without it"):
        outcomes(load_recipe(path), tmp_path / "run")


def test_every_checkpoint_of_a_run_says_where_it_comes_from(whole_run: WholeRun) -> None:
    pruned, distilled = (whole_run.folder / stage / "checkpoint" for stage in ("prune", "distill"))
    steps = [
        [step["step"] for step in json.loads((folder / "lineage.json").read_text())["steps"]]
        for folder in (pruned, distilled)
    ]
    assert steps == [["prune"], ["prune", "distill"]]
    for folder in (pruned, distilled):
        card = (folder / "README.md").read_text()
        assert "base_model: teacher" in card
        assert open_checkpoint(folder).shape.hybrid_override_pattern in card
        assert str(whole_run.recipe_path.parent) not in card + (folder / "lineage.json").read_text()


def test_a_cut_that_extra_layers_are_in_the_way_of_is_refused_before_anything_runs(tmp_path: Path) -> None:
    recipe = load_recipe(write_tiny_recipe(tmp_path, make_moe_shape(), {"n_routed_experts": [9]}))
    file = tmp_path / "teacher" / "model.safetensors"
    save_file(load_file(file) | {"mtp.layers.0.enorm.weight": torch.ones(22)}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="search.n_routed_experts needs prune.drop_mtp: true"):
        outcomes(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["first", "last", "only"])
def test_an_unknown_stage_is_refused_before_torch_is_imported(recipe_path: Path, tmp_path: Path, option: str) -> None:
    given = {"only": "only=['scores']"}.get(option, f"{option}='scores'")
    program = f"""
import sys
from pathlib import Path
from minitron.errors import MinitronError
from minitron.pipeline.runner import run_pipeline
from minitron.recipe.load import load_recipe
try:
    run_pipeline(load_recipe(Path({str(recipe_path)!r})), Path({str(tmp_path / "run")!r}), {given})
except MinitronError as error:
    print(error)
assert "torch" not in sys.modules
"""
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert answer.startswith("a stage must be one of ")
    assert all(name in answer for name in STAGE_NAMES)
    assert "got 'scores'" in answer
    assert not (tmp_path / "run").exists()
