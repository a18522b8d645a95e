"""A run whose vocabulary is cut first: everything after it is of the teacher with the kept tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from minitron.artifacts.header import hash_inputs
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.lineage import read_lineage
from minitron.cli.main import main
from minitron.dry_run.run import plan_run
from minitron.errors import MinitronError
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.pipeline import fingerprints
from minitron.pipeline.preflight import check_recipe
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.runner import run_pipeline, stage_inputs
from minitron.recipe.load import load_recipe
from minitron.search.solver import NothingFitsError
from minitron.vocabulary.kept_tokens import read_kept_tokens
from tests.support.recipes import TWO_STEPS, write_tiny_recipe

# The tiny teacher has 271 rows for 259 tokens, which are bytes and special ones.
KEPT = "prune.vocabulary={size: 264, multiple_of: 8}"
CACHED = ("distill.teacher={mode: cached, top_k: 8}", "prune.repair={samples: 4}", "search.choose=zero_shot")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Path]:
    root = tmp_path_factory.mktemp("kept")
    path = write_tiny_recipe(root)
    recipe = load_recipe(path, (KEPT, *CACHED))
    assert [each.name for each in run_pipeline(recipe, root / "run")].index("vocabulary") == 0
    return RunFolder(root / "run"), path


def test_teacher_caches_and_students_have_the_kept_tokens(run: tuple[RunFolder, Path]) -> None:
    folder, _ = run
    for checkpoint in (folder.cut_teacher, folder.pruned, folder.student):
        assert open_checkpoint(checkpoint).shape.vocab_size == 264
        assert read_kept_tokens(checkpoint) == read_kept_tokens(folder.cut_teacher)
    cached = json.loads(next(folder.teacher_cache.rglob("teacher-cache.json")).read_text())
    assert cached["vocab_size"] == 264
    assert folder.read_candidates().source.params == open_checkpoint(folder.cut_teacher).params
    lineage = read_lineage(folder.student)
    assert lineage is not None
    assert [step["step"] for step in lineage["steps"]] == ["vocabulary", "prune", "distill"]
    model, tokenizer = (kind.from_pretrained(folder.student) for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert model.generate(**tokenizer("line", return_tensors="pt"), max_new_tokens=2).shape[1] <= 6


def test_the_whole_teacher_is_measured_beside_the_cut_one(run: tuple[RunFolder, Path]) -> None:
    metrics = run[0].read_metrics()
    assert list(metrics) == ["teacher", "cut teacher", "pruned", "distilled"]
    whole, cut = metrics["teacher"], metrics["cut teacher"]
    assert whole.kl_to_teacher is None
    assert cut.kl_to_teacher == pytest.approx(0, abs=1e-6)
    assert whole.params - cut.params == 2 * 22 * (271 - 264)
    assert whole.bits_per_byte is not None
    assert cut.bits_per_byte is not None
    assert whole.bits_per_byte > cut.bits_per_byte  # rows that no token has are gone from the softmax


def test_the_record_has_the_calibration_text_and_other_languages(run: tuple[RunFolder, Path]) -> None:
    record = json.loads((run[0].stage("vocabulary") / "vocabulary.json").read_text())
    assert (record["before"], record["after"], record["coverage"]) == (271, 264, 1.0)
    assert record["lengths"][0]["text"].endswith("text.txt")


def test_a_changed_number_runs_all_of_it_again_and_the_same_one_nothing(
    run: tuple[RunFolder, Path],
) -> None:
    folder, path = run
    again = run_pipeline(load_recipe(path, (KEPT, *CACHED)), folder.path)
    assert {each.skipped for each in again} == {True}
    one, other, without = (
        stage_inputs(load_recipe(path, words))
        for words in ((KEPT,), ("prune.vocabulary={size: 272, multiple_of: 8}",), ())
    )
    assert all(hash_inputs(one[name]) != hash_inputs(other[name]) for name in one)
    assert all(hash_inputs(one[name]) != hash_inputs(without[name]) for name in without)
    assert "vocabulary" not in json.dumps(without)


def test_the_command_shows_what_the_cut_did(run: tuple[RunFolder, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = run
    words = ["run", str(path), "--output", str(folder.path), "--to", "vocabulary", "--set", KEPT]
    words += [word for setting in CACHED for word in ("--set", setting)]
    assert main(words) == 0
    assert "264 of 271 tokens are kept" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["vocabulary"]["after"] == 264


def test_other_recipes_keep_the_fingerprints_that_they_had(recipe_path: Path) -> None:
    found = fingerprints.prune(load_recipe(recipe_path))
    assert "vocabulary" not in found


def test_a_correction_and_the_depth_stages_are_of_the_cut_teacher(tmp_path: Path, recipe_path: Path) -> None:
    corrected = "correct_teacher={tokens: 64, seq_len: 16, batch_size: 2}"
    recipe = load_recipe(recipe_path, (KEPT, corrected, *TWO_STEPS))
    folder = RunFolder(tmp_path / "run")
    names = [each.name for each in run_pipeline(recipe, folder.path, last="depth_distill")]
    assert names == ["vocabulary", "correct", "depth", "depth_distill"]
    for checkpoint in (folder.corrected_teacher, folder.depth_pruned, folder.depth_distilled):
        assert open_checkpoint(checkpoint).shape.vocab_size == 264


def test_the_budget_is_met_by_the_cut_vocabulary(recipe_path: Path) -> None:
    """One byte less than the smallest candidate needs with all rows of its embeddings."""
    values: dict[str, Any] = yaml.safe_load(recipe_path.read_text())
    shape = open_checkpoint(recipe_path.parent / "teacher").shape
    sizes = {name: found[-1] for name, found in values["search"].items() if name != "num_hidden_layers"}
    values["search"] |= {name: [size] for name, size in sizes.items()} | {"num_hidden_layers": [8]}
    smallest = memory_bytes(shape.resized(layers=None, **sizes), Workload(context_tokens=64)).total_bytes
    values["budget"]["memory_bytes"] = smallest - 1
    recipe_path.write_text(yaml.safe_dump(values))
    check_recipe(load_recipe(recipe_path, (KEPT,)))
    with pytest.raises(NothingFitsError):
        check_recipe(load_recipe(recipe_path))


@pytest.mark.parametrize(
    ("kept", "said"),
    [("{size: 192}", "at least the 259 tokens"), ("{size: 320}", "at most the model's 271"), ("{}", "one of size")],
)
def test_what_cannot_be_kept_is_refused_before_anything_runs(recipe_path: Path, kept: str, said: str) -> None:
    with pytest.raises(MinitronError, match=said):
        check_recipe(load_recipe(recipe_path, (f"prune.vocabulary={kept}",)))


def test_text_that_is_counted_is_not_what_is_evaluated(recipe_path: Path) -> None:
    kept = "prune.vocabulary={size: 264, multiple_of: 8, data: [{path: heldout.txt}]}"
    with pytest.raises(MinitronError, match="evaluate.data.0 must not read"):
        load_recipe(recipe_path, (kept,))


def test_a_dry_run_counts_on_the_kept_tokens(recipe_path: Path) -> None:
    found = plan_run(load_recipe(recipe_path, (KEPT,)), ["recipe.yaml"]).to_json()
    stages, disk = found["stages"], found["disk"]
    assert isinstance(stages, list)
    assert isinstance(disk, dict)
    first: Any = stages[0]
    assert (first["name"], first["does"]) == ("vocabulary", "keep the tokens that the text uses")
    sizes: Any = found["shapes"]
    assert sizes["teacher"]["shape"]["vocab_size"] == 264
    items: Any = disk["items"]
    assert any(item["stage"] == "vocabulary" for item in items)
    counted = plan_run(load_recipe(recipe_path, ("prune.vocabulary={coverage: 0.99}",)), ["recipe.yaml"])
    assert any("known once the text is counted" in line for line in counted.assumptions)
