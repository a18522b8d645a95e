"""A student that is given: distilled as a run distills the one that it cut, and refused where that cannot be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import minitron
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.cli.main import main
from minitron.errors import ArtifactError, CheckpointError, MinitronError
from minitron.pipeline.given.student import distill_given
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.runner import run_pipeline
from minitron.recipe.load import load_recipe
from minitron.runtime.loading import load_model
from tests.pipeline.conftest import WholeRun
from tests.support.models import make_tiny_shape, write_tiny_checkpoint
from tests.support.processes import run_ranks

Begun = Callable[[str, str], Path]
CACHED = ("distill.teacher={mode: cached, top_k: 16}",)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_model(checkpoint).state_dict()


def test_it_becomes_what_the_run_makes_of_its_own_cut(whole_run: WholeRun, tmp_path: Path) -> None:
    pruned = RunFolder(whole_run.folder).pruned
    found = minitron.distill(whole_run.recipe_path, student=pruned, output=tmp_path / "given")
    assert found == tmp_path / "given" / "distill" / "checkpoint"
    torch.testing.assert_close(weights(found), weights(RunFolder(whole_run.folder).student), rtol=0, atol=0)
    assert not torch.equal(weights(found)["lm_head.weight"], weights(pruned)["lm_head.weight"])
    assert minitron.status(tmp_path / "given").state == "finished"


@pytest.mark.parametrize("mode", [(), CACHED], ids=["online", "cached"])
def test_a_recipes_teacher_is_corrected_and_cached_first(
    mode: tuple[str, ...], whole_run: WholeRun, begun: Begun, tmp_path: Path
) -> None:
    corrected = "correct_teacher={tokens: 64, seq_len: 16, batch_size: 2, learning_rate: 0.01, keep: last}"
    recipe = load_recipe(whole_run.recipe_path, (*mode, corrected))
    own = begun("run", "prune")
    for _ in run_pipeline(recipe, own, last="distill"):
        pass
    found = distill_given(recipe, RunFolder(own).pruned, tmp_path / "given")
    stages = {"correct", "distill", *(["cache"] if mode else [])}
    assert {path.name for path in (tmp_path / "given").iterdir() if path.is_dir()} == stages
    torch.testing.assert_close(weights(found), weights(RunFolder(own).student), rtol=0, atol=0)


def test_a_finished_one_is_taken_and_that_of_another_student_refused(whole_run: WholeRun, tmp_path: Path) -> None:
    recipe, run = load_recipe(whole_run.recipe_path), RunFolder(whole_run.folder)
    found = distill_given(recipe, run.pruned, tmp_path / "given")
    written = (found / "model.safetensors").stat().st_mtime_ns
    assert distill_given(recipe, run.pruned, tmp_path / "given") == found
    assert (found / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ArtifactError, match="of other inputs: .*student"):
        distill_given(recipe, run.student, tmp_path / "given")


def test_a_runs_own_student_is_never_overwritten(whole_run: WholeRun, begun: Begun) -> None:
    folder = begun("run", "distill")
    with pytest.raises(ArtifactError, match="holds one \\(distill\\) of other inputs"):
        distill_given(load_recipe(whole_run.recipe_path), RunFolder(folder).pruned, folder)


@pytest.mark.parametrize(
    ("override", "setting"),
    [
        ("distill.students=[{name: small, shape: {hidden_size: 14}}]", "distill.students"),
        ("distill.loss.hidden={kind: mse}", "distill.loss.hidden"),
    ],
)
def test_what_takes_the_plan_of_a_cut_is_refused(
    override: str, setting: str, whole_run: WholeRun, tmp_path: Path
) -> None:
    recipe = load_recipe(whole_run.recipe_path, (override,))
    with pytest.raises(MinitronError, match=f"{setting} needs a student that the run cuts itself"):
        distill_given(recipe, RunFolder(whole_run.folder).pruned, tmp_path / "given")
    assert not (tmp_path / "given").exists()


def test_one_of_another_vocabulary_is_refused(whole_run: WholeRun, tmp_path: Path) -> None:
    other = write_tiny_checkpoint(tmp_path / "other", shape=make_tiny_shape(vocab_size=273))
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    first, second, *_ = (token for token, number in tokenizer["model"]["vocab"].items() if number > 8)
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="one token in both|stands for"):
        distill_given(load_recipe(whole_run.recipe_path), other, tmp_path / "given")


def test_the_command_takes_it_and_says_where_the_student_is(
    whole_run: WholeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pruned, output = RunFolder(whole_run.folder).pruned, tmp_path / "given"
    words = ["distill", str(whole_run.recipe_path), "--student", str(pruned), "--output", str(output), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == {"student": str(output / "distill" / "checkpoint")}
    assert open_checkpoint(output / "distill" / "checkpoint").shape == open_checkpoint(pruned).shape
    assert main([*words, "--from", "distill"]) == 2
    assert "--student must be given without" in capsys.readouterr().err


@pytest.mark.processes
def test_two_processes_with_shards_make_what_one_does(whole_run: WholeRun, tmp_path: Path) -> None:
    run = RunFolder(whole_run.folder)
    words = ["distill", str(whole_run.recipe_path), "--student", str(run.pruned), "--output", str(tmp_path / "given")]
    assert run_ranks(main, [*words, "--set", "distill.sharding=fsdp2"], log=tmp_path) == [0, 0]
    found, alone = weights(tmp_path / "given" / "distill" / "checkpoint"), weights(run.student)
    start = weights(run.pruned)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-4)
    assert max(float((alone[name] - start[name]).abs().max()) for name in start) > 1e-3


@pytest.mark.processes
def test_a_folder_of_another_student_is_refused_in_every_process(whole_run: WholeRun, begun: Begun) -> None:
    folder = begun("run", "distill")
    student = RunFolder(folder).pruned
    words = ["distill", str(whole_run.recipe_path), "--student", str(student), "--output", str(folder)]
    assert 2 in run_ranks(main, words, log=folder)
    assert "of other inputs" in (folder / "rank-0.err").read_text()
