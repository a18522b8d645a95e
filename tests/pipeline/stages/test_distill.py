"""Distillation as a recipe asks for it: curricula, merging, correction, teachers of every kind, several processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.lineage import read_lineage
from minitron.cli.main import main
from minitron.errors import RecipeError
from minitron.pipeline import recovery
from minitron.pipeline.recovery import compose_plans
from minitron.pipeline.run_folder import PLAN_FILE, RECORD_FILE
from minitron.pipeline.runner import run_pipeline
from minitron.recipe.load import load_recipe
from minitron.runtime.loading import load_model
from tests.pipeline.conftest import WholeRun
from tests.support.paths import ROOT
from tests.support.processes import run_ranks

Begun = Callable[[str, str], Path]
Launch = Callable[[list[str], Path], tuple[bool, str, str]]

CURRICULUM = (
    "distill.tokens=null",
    "distill.phases=[{name: short, tokens: 128}, {tokens: 96, seq_len: 24, batch_size: 1, learning_rate: 0.0005}]",
)


def run(recipe_path: Path, folder: Path, *overrides: str, **options: Any) -> dict[str, bool]:
    recipe = load_recipe(recipe_path, overrides)
    return {outcome.name: outcome.skipped for outcome in run_pipeline(recipe, folder, **options)}


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_model(checkpoint).state_dict()


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "distill" / RECORD_FILE).read_text())
    return found


@pytest.fixture(scope="module")
def curriculum(whole_run: WholeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a curriculum, never interrupted."""
    folder = whole_run.copy_to(tmp_path_factory.mktemp("curriculum") / "run", last="prune")
    run(whole_run.recipe_path, folder, *CURRICULUM, last="distill")
    return folder


def test_a_curriculum_goes_through_its_stages_and_keeps_their_students(curriculum: Path) -> None:
    folder = curriculum
    found = record(folder)
    assert [(phase["name"], phase["tokens"]) for phase in found["phases"]] == [("short", 128), ("phase-2", 96)]
    assert found["tokens"] == 224
    assert [at for at, _ in found["curve"]] == [32, 64, 96, 128, 152, 176, 200, 224]
    first = weights(folder / "distill" / "phases" / "short" / "checkpoint")
    last = weights(folder / "distill" / "checkpoint")
    assert any(not torch.equal(first[name], last[name]) for name in first)
    steps = read_lineage(folder / "distill" / "checkpoint")["steps"]  # type: ignore[index]
    assert [phase["seq_len"] for phase in steps[-1]["phases"]] == [16, 24]
    assert not (folder / "distill" / "state").exists()


def test_the_last_students_are_merged_by_weight(begun: Begun, recipe_path: Path) -> None:
    folder = begun("run", "prune")
    run(recipe_path, folder, *CURRICULUM, "distill.merge=[0.25, 0.75]", last="distill")
    parts = [weights(folder / "distill" / "phases" / name / "checkpoint") for name in ("short", "phase-2")]
    for name, merged in weights(folder / "distill" / "checkpoint").items():
        torch.testing.assert_close(merged, 0.25 * parts[0][name] + 0.75 * parts[1][name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("stopped_at", ["second phase", "end"])
def test_an_interrupted_curriculum_goes_on_to_the_same_student(
    begun: Begun, recipe_path: Path, curriculum: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: str
) -> None:
    folder = begun("run", "prune")

    def stop(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    real = recovery.distill

    def second_stops(student: Any, teacher: Any, sequences_NT: Any, *args: Any, **kwargs: Any) -> Any:
        return stop() if sequences_NT.shape[1] == 24 else real(student, teacher, sequences_NT, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if stopped_at == "end":
            patch.setattr(recovery, "write_provenance", stop)
        else:
            patch.setattr(recovery, "distill", second_stops)
        run(recipe_path, folder, *CURRICULUM, last="distill")
    calls: list[int] = []

    def counted(student: Any, teacher: Any, sequences_NT: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(sequences_NT.shape[1])
        return real(student, teacher, sequences_NT, *args, **kwargs)

    monkeypatch.setattr(recovery, "distill", counted)
    run(recipe_path, folder, *CURRICULUM, last="distill")
    assert calls == ([] if stopped_at == "end" else [24])
    expected = weights(curriculum / "distill" / "checkpoint")
    for name, found in weights(folder / "distill" / "checkpoint").items():
        assert torch.equal(found, expected[name]), name


def test_a_layerwise_teacher_teaches_what_one_in_memory_does(
    begun: Begun, whole_run: WholeRun, recipe_path: Path
) -> None:
    folder, expected = begun("other", "prune"), record(whole_run.folder)["curve"]
    layerwise = ("distill.teacher={mode: layerwise, window_sequences: 3}",)
    assert run(recipe_path, folder, *layerwise, last="distill")["distill"] is False
    for (_, loss), (_, expected_loss) in zip(record(folder)["curve"], expected, strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-4)


@pytest.mark.parametrize("layerwise", [False, True])
def test_a_teacher_cached_whole_teaches_what_one_in_memory_does(
    begun: Begun, whole_run: WholeRun, recipe_path: Path, layerwise: bool
) -> None:
    cached = (f"distill.teacher={{mode: cached, top_k: 270, layerwise: {layerwise}}}",)
    folder = begun("other", "prune")
    outcomes = run(recipe_path, folder, *cached, last="distill")
    assert list(outcomes) == ["score", "search", "prune", "cache", "distill"]
    for (_, loss), (_, expected) in zip(record(folder)["curve"], record(whole_run.folder)["curve"], strict=True):
        assert loss == pytest.approx(expected, rel=3e-3)


def test_a_cache_is_written_without_a_student_and_serves_every_student(
    begun: Begun, recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = begun("run", "prune")
    assert main(["distill", str(recipe_path), "--cache-teacher", "--output", str(folder), "--json"]) == 0
    assert [stage["name"] for stage in json.loads(capsys.readouterr().out)["stages"]] == ["cache"]
    cached = ("distill.teacher.mode=cached",)
    assert run(recipe_path, folder, *cached, last="distill")["cache"] is True
    other = (*cached, "search.hidden_size=[18]", "distill.learning_rate=0.002", "distill.epochs=2")
    assert run(recipe_path, folder, *other, last="distill") == {
        "score": True,
        "search": False,
        "prune": False,
        "cache": True,
        "distill": False,
    }
    assert run(recipe_path, folder, *cached, "distill.teacher.top_k=7", last="cache")["cache"] is False


def test_a_corrected_teacher_is_what_students_learn_from(
    tmp_path: Path, recipe_path: Path, whole_run: WholeRun
) -> None:
    correction = ("correct_teacher={tokens: 128, seq_len: 16, batch_size: 2, learning_rate: 0.01}",)
    folder = tmp_path / "run"
    assert next(iter(run(recipe_path, folder, *correction, last="distill"))) == "correct"
    corrected = open_checkpoint(folder / "correct" / "trained" / "checkpoint")
    teacher = open_checkpoint(tmp_path / "teacher")
    assert corrected.shape == teacher.shape
    assert any(
        not torch.equal(found, before)
        for found, before in zip(weights(corrected.folder).values(), weights(teacher.folder).values(), strict=True)
    )
    curve = json.loads((folder / "correct" / "trained" / RECORD_FILE).read_text())["curve"]
    assert curve[-1][1] < curve[0][1]
    assert record(folder)["curve"][0] != record(whole_run.folder)["curve"][0]
    assert not (folder / "correct" / "state").exists()


@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_hidden_states_are_matched_behind_kept_blocks_and_in_kept_channels(
    begun: Begun, recipe_path: Path, kind: str
) -> None:
    folder, cut = begun("run", "score"), ("search.num_hidden_layers=[7]", "search.hidden_size=[18]")
    run(recipe_path, folder, *cut, f"distill.loss.hidden={{kind: {kind}, weight: 2.0}}", last="distill")
    kept = compose_plans([folder / "prune" / PLAN_FILE])
    assert len(kept.layers) == 7
    assert kept.channels is not None
    assert len(kept.channels) == 18
    with_states = record(folder)["curve"]
    assert with_states[0][1] > 0


def launched_by_torchrun(arguments: list[str], logs: Path) -> tuple[bool, str, str]:
    """Whether two processes of the command line end well, and what they print and report."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [*launcher, f"--log-dir={logs}", "-m", "minitron", *arguments],
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=600,
        capture_output=True,
        text=True,
    )
    return done.returncode == 0, done.stdout, done.stderr


def forked(arguments: list[str], logs: Path) -> tuple[bool, str, str]:
    """The same without a launcher."""
    logs.mkdir()
    codes = run_ranks(main, arguments, log=logs)
    printed, reported = (
        "".join((logs / f"rank-{rank}.{kind}").read_text() for rank in (0, 1)) for kind in ("log", "err")
    )
    return codes == [0, 0], printed, reported


@pytest.mark.processes
@pytest.mark.parametrize("launch", [forked, pytest.param(launched_by_torchrun, marks=pytest.mark.slow)])
def test_two_processes_distil_what_one_does(
    begun: Begun, whole_run: WholeRun, tmp_path: Path, recipe_path: Path, launch: Launch
) -> None:
    folder = begun("run", "prune")
    arguments = [str(recipe_path), "--output", str(folder), "--json"]
    well, printed, reported = launch(["distill", *arguments, "--set", "distill.sharding=fsdp2"], tmp_path / "logs")
    assert well, reported
    assert json.loads(printed)["stages"][-1] == {"name": "distill", "skipped": False} | {
        "seconds": pytest.approx(0, abs=300)
    }
    shared = weights(folder / "distill" / "checkpoint")
    for name, alone in weights(whole_run.folder / "distill" / "checkpoint").items():
        torch.testing.assert_close(shared[name], alone, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (("distill.phases=[{tokens: 64}]",), "either tokens or phases must be given"),
        ((*CURRICULUM, "distill.merge=[0.5, 0.4]"), "at most a weight a phase, and a sum of 1"),
        (("distill.merge=[0.5, 0.5]",), "at most a weight a phase"),
        (("distill.data=[]",), "data must be given, phase phase-1 has none"),
        (
            ("distill.tokens=null", "distill.phases=[{name: a, tokens: 64}, {name: a, tokens: 64}]"),
            "phases must have names of their own",
        ),
        (("distill.loss.hidden={}", "distill.teacher.mode=cached"), "loss.hidden needs an online teacher"),
        (("distill.context_parallel=2", "distill.teacher.mode=cached"), "context_parallel needs an online teacher"),
        (("distill.loss.temperature=0",), "distill.loss.temperature"),
    ],
)
def test_a_distillation_that_cannot_be_is_refused_by_the_recipe(
    recipe_path: Path, overrides: tuple[str, ...], match: str
) -> None:
    with pytest.raises(RecipeError, match=match):
        load_recipe(recipe_path, overrides)


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("distill.micro_batch_size=3", "micro_batch_size must divide the batch of 2 blocks in stage phase-1, got 3"),
        ("correct_teacher={tokens: 8, seq_len: 16, batch_size: 2}", "correct_teacher.tokens must fill one batch"),
        ("distill.loss.hidden={blocks: [31]}", "loss.hidden.blocks must be the student's, 0 to"),
    ],
)
def test_what_only_the_run_can_know_is_one_line(tmp_path: Path, recipe_path: Path, override: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        run(recipe_path, tmp_path / "run", override, last="distill")
