"""A recipe with smaller students: one checkpoint holds them all, and each comes out of it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from minitron.api.extract import extract
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.students import read_students
from minitron.checkpoints.weights import open_weights
from minitron.cli.main import main
from minitron.errors import MinitronError
from minitron.models.slicing import slice_tensors
from minitron.pipeline.runner import run_pipeline
from minitron.recipe.load import load_recipe
from minitron.runtime.loading import load_model
from tests.support.recipes import write_tiny_recipe

STUDENTS = (
    "search.hidden_size=[18]",
    "search.num_hidden_layers=[7]",
    "distill.students=[{name: medium, shape: {hidden_size: 14}}, "
    "{name: small, shape: {hidden_size: 11, mamba_num_heads: 4, intermediate_size: 20, num_hidden_layers: 5}}]",
    "prune.compensate={samples: 2}",
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


def test_an_extracted_student_is_a_slice_bit_for_bit(nested_run: Path, tmp_path: Path) -> None:
    source = open_checkpoint(nested_run / "distill" / "checkpoint")
    student = read_students(source.folder).named("small")
    written = extract(nested_run, "small", output=tmp_path / "small")
    assert written.shape == student.shape
    assert written.shape.num_hidden_layers == 5
    assert not (written.folder / "students.json").exists()
    with open_weights(source) as read, open_weights(written) as read_written:
        expected = dict(slice_tensors(read, source.shape, student.keep(source.shape), scales=student.scales))
        assert expected.keys() == written.tensors.keys()
        for name, tensor in expected.items():
            assert torch.equal(read_written(name), tensor), name
    assert [step["step"] for step in json.loads((written.folder / "lineage.json").read_text())["steps"]][
        -1
    ] == "extract"
    load_model(written.folder)


def test_norms_of_narrower_students_are_compensated(nested_run: Path) -> None:
    students = read_students(nested_run / "distill" / "checkpoint").students
    assert all(0.3 < scale < 3 for student in students for scale in student.scales.values())
    assert [bool(student.scales) for student in students] == [True, True]


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
