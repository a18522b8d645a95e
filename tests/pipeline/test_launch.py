"""Two processes go through all stages: they find what one does, and what one of them fails with ends both."""

import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import minitron
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.importance.scores import load_scores
from minitron.pipeline.run_folder import CANDIDATES_FILE, RunFolder
from minitron.pipeline.runner import run_pipeline
from minitron.prune.plan import load_plan
from minitron.recipe.load import load_recipe
from minitron.runtime.loading import load_model
from tests.pipeline import launched
from tests.pipeline.conftest import WholeRun
from tests.support.processes import run_ranks
from tests.support.recipes import TWO_STEPS

pytestmark = pytest.mark.processes

Begun = Callable[[str, str], Path]


def words(recipe_path: Path, folder: Path, overrides: Sequence[str] = (), *more: str) -> list[str]:
    settings = [word for override in overrides for word in ("--set", override)]
    return ["run", str(recipe_path), "--output", str(folder), *settings, *more]


def launch(recipe_path: Path, folder: Path, overrides: Sequence[str] = (), *more: str) -> Path:
    """Runs a recipe in two processes; gives the folder of what they print."""
    logs = folder.with_name(folder.name + "-logs")
    logs.mkdir()
    codes = run_ranks(launched.command, words(recipe_path, folder, overrides, *more), log=logs)
    assert codes == [0, 0], (logs / "rank-0.err").read_text() + (logs / "rank-1.err").read_text()
    return logs


def run_alone(recipe_path: Path, folder: Path, overrides: Sequence[str], last: str) -> None:
    for _ in run_pipeline(load_recipe(recipe_path, overrides), folder, last=last):
        pass


def candidates(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "search" / CANDIDATES_FILE).read_text())["candidates"]
    return found


def assert_metrics_close(folder: Path, other: Path, rel: float) -> None:
    found, expected = (RunFolder(each).read_metrics() for each in (folder, other))
    assert list(found) == list(expected)
    for name, metrics in expected.items():
        assert found[name].loss == pytest.approx(metrics.loss, rel=rel)
        assert found[name].kl_to_teacher == pytest.approx(metrics.kl_to_teacher, rel=rel, abs=1e-9)
        assert found[name].bits_per_byte == pytest.approx(metrics.bits_per_byte, rel=rel)
        assert (found[name].exact_match, found[name].problems) == (metrics.exact_match, metrics.problems)
        assert (found[name].speed is None) == (metrics.speed is None)


@pytest.fixture(scope="module")
def two(whole_run: WholeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes through all stages."""
    folder = tmp_path_factory.mktemp("two") / "run"
    launch(whole_run.recipe_path, folder, (), "--json")
    return folder


def test_two_processes_end_with_the_student_of_one(two: Path, whole_run: WholeRun) -> None:
    one = whole_run.folder
    found, expected = (load_scores(RunFolder(each).scores) for each in (two, one))
    np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-5)
    assert [(each["layers"], each["shape"]) for each in candidates(two)] == [
        (each["layers"], each["shape"]) for each in candidates(one)
    ]
    plans = [load_plan(RunFolder(each).plan).keep for each in (two, one)]
    assert plans[0].layers == plans[1].layers
    assert plans[0].indices.keys() == plans[1].indices.keys()
    assert all(np.array_equal(plans[0].indices[key], kept) for key, kept in plans[1].indices.items())
    assert open_checkpoint(RunFolder(two).student).shape == open_checkpoint(RunFolder(one).student).shape
    shared = load_model(RunFolder(two).student).state_dict()
    for name, alone in load_model(RunFolder(one).student).state_dict().items():
        torch.testing.assert_close(shared[name], alone, rtol=0, atol=1e-5, msg=name)
    assert_metrics_close(two, one, 1e-5)


def test_the_first_process_alone_speaks_and_keeps_the_status(two: Path) -> None:
    logs = two.with_name("run-logs")
    result = json.loads((logs / "rank-0.log").read_text())
    assert (logs / "rank-1.log").read_text() == ""
    told = [line.split()[0] for line in (logs / "rank-0.err").read_text().splitlines() if " done in " in line]
    stages = [stage["name"] for stage in result["stages"]]
    assert told == stages == ["score", "search", "prune", "distill", "evaluate", "report"]
    assert " done in " not in (logs / "rank-1.err").read_text()
    status = minitron.status(two)
    assert status.state == "finished"
    assert [stage.state for stage in status.stages] == ["finished"] * len(stages)


def test_a_second_launch_skips_what_is_finished_whatever_the_number_of_processes(
    two: Path, whole_run: WholeRun, begun: Begun
) -> None:
    assert {stage.skipped for stage in minitron.run(whole_run.recipe_path, output=two).outcomes} == {True}
    logs = launch(whole_run.recipe_path, begun("one", "report"), (), "--json")
    assert {stage["skipped"] for stage in json.loads((logs / "rank-0.log").read_text())["stages"]} == {True}


@pytest.mark.parametrize("choose", ["zero_shot", pytest.param("repaired", marks=pytest.mark.slow)])
def test_candidates_that_two_processes_measure_are_those_of_one_bit_for_bit(
    recipe_path: Path, begun: Begun, choose: str
) -> None:
    overrides = (f"search.choose={choose}", "search.shortlist=5", "prune.repair={samples: 6, batch_size: 2}")
    folders = begun("one", "score"), begun("two", "score")
    run_alone(recipe_path, folders[0], overrides, "search")
    launch(recipe_path, folders[1], overrides, "--to", "search")
    assert candidates(folders[1]) == candidates(folders[0])
    assert len(candidates(folders[0])) == 5


@pytest.mark.slow
def test_a_tournament_of_two_processes_ends_in_the_order_of_one(recipe_path: Path, begun: Begun) -> None:
    overrides = (
        "search.choose=tournament",
        "search.shortlist=3",
        "search.tournament={tokens: [64, 128], sequences: 3}",
        "distill.save_steps=1",
    )
    folders = begun("one", "score"), begun("two", "score")
    run_alone(recipe_path, folders[0], overrides, "search")
    launch(recipe_path, folders[1], overrides, "--to", "search")
    one, two = (candidates(folder) for folder in folders)
    assert [each["shape"] for each in two] == [each["shape"] for each in one]
    assert [len(each["rounds"]) for each in one] == [2, 2, 1]
    for shared, alone in zip(two, one, strict=True):
        for found, expected in zip(shared["rounds"], alone["rounds"], strict=True):
            assert found["tokens"] == expected["tokens"]
            assert found["kl"] == pytest.approx(expected["kl"], rel=1e-4)
    assert not list(folders[1].rglob("state"))


def test_blocks_that_two_processes_remove_are_those_that_one_does(
    tmp_path: Path, recipe_path: Path, two_steps: WholeRun
) -> None:
    launch(recipe_path, tmp_path / "run", TWO_STEPS, "--to", "depth")
    folders = [RunFolder(tmp_path / "run"), RunFolder(two_steps.folder)]
    found, expected = (load_scores(each.stage("depth") / "score" / "scores.safetensors") for each in folders)
    assert found.removed == expected.removed
    assert len(found.removed) == 2
    np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-5)
    weights = [(each.depth_pruned / "model.safetensors").read_bytes() for each in folders]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_vocabulary_is_cut_by_one_of_two_processes_and_all_go_on_from_it(tmp_path: Path, recipe_path: Path) -> None:
    logs = launch(
        recipe_path, tmp_path / "run", ("prune.vocabulary={size: 264, multiple_of: 8}",), "--to", "search", "--json"
    )
    found = json.loads((logs / "rank-0.log").read_text())
    assert [stage["name"] for stage in found["stages"]] == ["vocabulary", "score", "search"]
    assert {each["shape"]["vocab_size"] for each in candidates(tmp_path / "run")} == {264}


@pytest.mark.slow
def test_a_block_at_a_time_two_processes_measure_what_one_does(recipe_path: Path, begun: Begun) -> None:
    overrides = ("evaluate.layerwise=true", "evaluate.task=null", "evaluate.speed=null", "evaluate.sequences=3")
    folders = begun("one", "distill"), begun("two", "distill")
    run_alone(recipe_path, folders[0], overrides, "evaluate")
    launch(recipe_path, folders[1], overrides, "--to", "evaluate")
    assert_metrics_close(folders[1], folders[0], 1e-5)
    assert sorted(path.name for path in (folders[1] / "evaluate").iterdir()) == ["artifact.json", "metrics.json"]


def test_a_student_is_not_moved_before_all_processes_have_opened_it(
    tmp_path: Path, recipe_path: Path, begun: Begun
) -> None:
    folder = begun("run", "prune")
    given = words(recipe_path, folder, (), "--to", "distill")
    assert run_ranks(launched.with_a_second_process_that_reads_late, given, log=tmp_path) == [0, 0], (
        tmp_path / "rank-0.err"
    ).read_text()
    assert RunFolder(folder).student.is_dir()


def fail(function: Callable[[Sequence[str]], int], words: Sequence[str], logs: Path) -> tuple[list[int], list[str]]:
    """Exit codes and what each process reports, of a launch whose processes are killed as soon as one has ended."""
    logs.mkdir()
    codes = run_ranks(function, words, log=logs, timeout_s=240)
    return codes, [(logs / f"rank-{rank}.err").read_text() for rank in (0, 1)]


def test_what_the_first_process_fails_with_alone_is_one_line(tmp_path: Path, whole_run: WholeRun, begun: Begun) -> None:
    folder = begun("run", "evaluate")
    given = words(whole_run.recipe_path, folder)
    codes, reported = fail(launched.with_a_report_that_fails, given, tmp_path / "logs")
    assert codes == [2, -signal.SIGKILL]
    lines = [line for line in reported[0].splitlines() if "finished before" not in line]
    assert lines == ["minitron: the record must be finite"]
    assert reported[1] == ""
    status = minitron.status(folder)
    assert (status.state, status.error) == ("failed", "the record must be finite")


@pytest.mark.slow
def test_a_bug_in_the_first_process_alone_has_its_traceback_and_no_other(
    tmp_path: Path, whole_run: WholeRun, begun: Begun
) -> None:
    folder = begun("run", "evaluate")
    given = words(whole_run.recipe_path, folder)
    codes, reported = fail(launched.with_a_report_that_has_a_bug, given, tmp_path / "logs")
    assert codes == [1, -signal.SIGKILL]
    assert reported[0].count("Traceback") == 1
    assert reported[0].splitlines()[-1].startswith("ZeroDivisionError")
    assert reported[1] == ""


def test_what_another_process_fails_with_is_one_line_of_the_first(
    tmp_path: Path, recipe_path: Path, begun: Begun
) -> None:
    folder = begun("run", "distill")
    codes, reported = fail(launched.with_a_second_process_that_fails, words(recipe_path, folder), tmp_path / "logs")
    assert codes == [2, -signal.SIGKILL]
    lines = [line for line in reported[0].splitlines() if "finished before" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("minitron: ")
    assert "the loss must be finite" in lines[0]
    assert "Traceback" not in reported[1]
    assert minitron.status(folder).state == "failed"


def test_what_another_process_fails_with_in_a_cut_is_one_line_of_the_first(
    tmp_path: Path, whole_run: WholeRun, begun: Begun
) -> None:
    folder, teacher = begun("run", "score"), load_recipe(whole_run.recipe_path).teacher
    shape = ["--shape", '{"hidden_size": 14}', "--output", str(tmp_path / "cut")]
    given = ["prune", teacher, "--scores", str(folder / "score"), *shape]
    codes, reported = fail(launched.with_a_second_process_that_cannot_cut, given, tmp_path / "logs")
    assert codes == [2, -signal.SIGKILL]
    assert reported == ["minitron: a weight must be finite\n", ""]


def test_a_recipe_that_starts_processes_of_its_own_is_refused_before_anything_runs(
    tmp_path: Path, recipe_path: Path
) -> None:
    given = words(recipe_path, tmp_path / "run", ("search.processes=2",))
    codes, reported = fail(launched.command, given, tmp_path / "logs")
    assert codes == [2, -signal.SIGKILL]
    assert reported[0].startswith("minitron: search.processes must be 1 where a launcher starts several processes, 2")
    assert reported[0].count("\n") == 1
    assert reported[1] == ""
    assert not (tmp_path / "run").exists()
