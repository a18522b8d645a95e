"""A recipe with smaller students: one checkpoint holds them all, and each comes out of it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minitron.api.extract import extract
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.students import read_students
from minitron.checkpoints.weights import open_weights
from minitron.cli.main import main
from minitron.errors import MinitronError
from minitron.importance.ordering import best_first, carried_scores
from minitron.importance.scores import load_scores
from minitron.models.keep import compose_keeps
from minitron.models.slicing import slice_tensors
from minitron.pipeline.pruning import Cut, prune_to
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.runner import run_pipeline
from minitron.pipeline.sections import prune_section
from minitron.prune.plan import load_plan
from minitron.recipe.load import load_recipe
from minitron.runtime.loading import load_model
from tests.support.recipes import write_tiny_recipe

STUDENTS = (
    "search.hidden_size=[18]",
    "search.num_hidden_layers=[7]",
    "distill.students=[{name: medium, shape: {hidden_size: 14}}, "
    "{name: small, shape: {hidden_size: 11, mamba_num_heads: 4, intermediate_size: 20, num_hidden_layers: 5}}]",
    "prune={compensate: {samples: 2}, repair: {samples: 2}}",
)


@pytest.fixture(scope="module")
def nested_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nested")
    list(run_pipeline(load_recipe(write_tiny_recipe(folder), STUDENTS), folder / "run"))
    return folder / "run"


def test_every_student_is_measured(nested_run: Path) -> None:
    metrics = json.loads((nested_run / "evaluate" / "metrics.json").read_text())
    assert list(metrics) == ["teacher", "pruned", "distilled", "medium", "small"]
    params = [metrics[name]["params"] for name in ("pruned", "distilled", "medium", "small")]
    assert params[0] == params[1] > params[2] > params[3]
    assert not (nested_run / "evaluate" / "students").exists()


@pytest.mark.parametrize("name", ["medium", "small"])
def test_an_extracted_student_is_slices_and_their_correction_bit_for_bit(
    nested_run: Path, tmp_path: Path, name: str
) -> None:
    source = open_checkpoint(nested_run / "distill" / "checkpoint")
    student, correction = (
        read_students(source.folder).named(name),
        load_file(source.folder / f"students/{name}.safetensors"),
    )
    written = extract(nested_run, name, output=tmp_path / name)
    assert written.shape == student.shape
    assert not (written.folder / "students.json").exists()
    with open_weights(source) as read, open_weights(written) as read_written:
        sliced = dict(slice_tensors(read, source.shape, student.keep(source.shape)))
        assert sliced.keys() == written.tensors.keys()
        for tensor, found in sliced.items():
            expected = found + correction[tensor] if tensor in correction else found
            assert torch.equal(read_written(tensor), expected), tensor
    lineage = json.loads((written.folder / "lineage.json").read_text())
    assert [step["step"] for step in lineage["steps"]] == ["prune", "distill", "extract"]
    load_model(written.folder)


def test_without_training_a_student_is_what_pruning_would_leave(nested_run: Path, tmp_path: Path) -> None:
    # At a rate of almost nothing the weights that are shared stay those of the pruned checkpoint.
    for stage in ("score", "search", "prune"):
        shutil.copytree(nested_run / stage, tmp_path / "run" / stage)
    path = write_tiny_recipe(tmp_path)
    recipe = load_recipe(path, (*STUDENTS, "distill.learning_rate=1.0e-30"))
    list(run_pipeline(recipe, tmp_path / "run", last="distill"))
    extract(tmp_path / "run", "small", output=tmp_path / "small")
    run = RunFolder(tmp_path / "run")
    student = read_students(run.student).named("small")
    first, pruned = load_plan(run.plan), open_checkpoint(run.pruned)
    scores = load_scores(run.scores)
    order = best_first(carried_scores(scores, first.keep), pruned.shape)
    keep = compose_keeps(first.source, compose_keeps(first.source, first.keep, order), student.keep(pruned.shape))
    cut = Cut(
        source=open_checkpoint(tmp_path / "teacher"), scores=scores, target=student.shape, layers=keep.layers, keep=keep
    )
    prune_to(cut, tmp_path / "alone" / "checkpoint", section=prune_section(recipe))
    expected = load_model(tmp_path / "alone" / "checkpoint").state_dict()
    for name, weight in load_model(tmp_path / "small").state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-6, atol=1e-6, msg=name)


def test_nothing_of_the_students_starts_is_left(nested_run: Path) -> None:
    assert sorted(path.name for path in (nested_run / "distill").iterdir()) == [
        "artifact.json",
        "checkpoint",
        "record.json",
    ]


def test_students_between_those_that_were_trained_come_out_too(nested_run: Path, tmp_path: Path) -> None:
    words = ["extract", str(nested_run), "--shape", '{"hidden_size": 12, "num_hidden_layers": 6}']
    assert main([*words, "--output", str(tmp_path / "between")]) == 0
    shape = open_checkpoint(tmp_path / "between").shape
    assert (shape.hidden_size, shape.num_hidden_layers) == (12, 6)


def test_what_is_not_held_is_refused_in_a_line(
    nested_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["extract", str(nested_run), "--output", str(tmp_path / "none"), "--shape"]
    for shape, message in (
        ("large", "must be one of medium, small, or sizes"),
        ('{"hidden_size": 20}', "hidden_size must not exceed the largest student's 18, got 20"),
        ('{"num_hidden_layers": 4}', "num_hidden_layers must be 5 to 7, got 4"),
    ):
        assert main([*words, shape]) == 2
        assert message in capsys.readouterr().err
    assert main(["extract", str(nested_run / "prune" / "checkpoint"), "--shape", "small", *words[2:4]]) == 2
    assert "has no students.json" in capsys.readouterr().err


def test_students_that_the_teacher_does_not_hold_are_refused_before_anything_runs(tmp_path: Path) -> None:
    path = write_tiny_recipe(tmp_path)
    for students, message in (
        ("[{name: a, shape: {hidden_size: 23}}]", "a: hidden_size must not exceed"),
        ("[{name: a, shape: {mamba_num_heads: 3}}]", "a: mamba_num_heads must be a multiple of"),
        ("[{name: a, shape: {wings: 3}}]", "wings"),
    ):
        with pytest.raises(MinitronError, match=message):
            run_pipeline(load_recipe(path, (f"distill.students={students}",)), tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("distill.sharding=fsdp2", "sharding: fsdp2"),
        ("distill.gradient_checkpointing=true", "gradient_checkpointing"),
        ("prune.block_widths={}", "the same in every block"),
        ("distill.loss={hidden: {weight: 0.5}}", "loss.hidden"),
        ("distill.students=[{name: a, shape: {hidden_size: 9}}, {name: a, shape: {hidden_size: 8}}]", "own"),
        ("distill.students=[{name: teacher, shape: {hidden_size: 9}}]", "none of teacher"),
    ],
)
def test_settings_that_students_cannot_have_are_refused(tmp_path: Path, more: str, message: str) -> None:
    one = "distill.students=[{name: a, shape: {hidden_size: 9}}]"
    with pytest.raises(MinitronError, match=message):
        load_recipe(write_tiny_recipe(tmp_path), (one, more))


def test_an_evaluation_with_leftovers_of_an_interrupted_one_is_made_anew(nested_run: Path, tmp_path: Path) -> None:
    shutil.copytree(nested_run, tmp_path / "run")
    path = write_tiny_recipe(tmp_path)
    shutil.rmtree(tmp_path / "run" / "evaluate")
    outcomes = list(run_pipeline(load_recipe(path, STUDENTS), tmp_path / "run"))
    assert [outcome.name for outcome in outcomes if not outcome.skipped][:1] == ["evaluate"]
