"""How far a run is, as another process sees it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import minitron
from minitron.artifacts.locks import locked
from minitron.cli.main import main
from minitron.errors import MinitronError
from minitron.pipeline import status as status_module
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.runner import run_pipeline
from minitron.pipeline.status import StatusFile, read_status, watched
from minitron.progress import Step, track
from minitron.recipe.load import load_recipe
from tests.pipeline.conftest import WholeRun

STEP = Step(description="distill, loss 0.5000", completed=40, total=120, seconds_left=90.0)


def states(path: Path) -> dict[str, str]:
    return {stage.name: stage.state for stage in read_status(path).stages}


def test_a_finished_run_says_so_and_what_each_stage_took(whole_run: WholeRun) -> None:
    found = minitron.status(whole_run.folder)
    assert found.state == "finished"
    assert [stage.name for stage in found.stages] == list(whole_run.skipped)
    assert all(stage.state == "finished" and (stage.seconds or 0) > 0 for stage in found.stages)
    assert found.process == os.getpid()


def test_a_run_that_is_done_again_says_what_was_finished_before(recipe_path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    for _ in range(2):
        for _ in run_pipeline(recipe, tmp_path / "run", last="search"):
            pass
    assert states(RunFolder(tmp_path / "run").status) == dict.fromkeys(("score", "search"), "finished before")


def test_a_run_that_fails_says_why(recipe_path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    run = run_pipeline(recipe, tmp_path / "run")
    next(run)
    RunFolder(tmp_path / "run").scores.unlink()
    with pytest.raises(MinitronError) as fault:
        for _ in run:
            pass
    found = minitron.status(tmp_path / "run")
    assert found.state == "failed"
    assert found.error == str(fault.value).splitlines()[0]
    assert [stage.state for stage in found.stages[:3]] == ["finished", "failed", "waiting"]


def test_a_run_that_is_left_in_the_middle_is_interrupted(recipe_path: Path, tmp_path: Path) -> None:
    run = run_pipeline(load_recipe(recipe_path), tmp_path / "run")
    next(run)
    run.close()  # type: ignore[attr-defined]
    assert minitron.status(tmp_path / "run").state == "interrupted"


def test_loops_are_told_while_they_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "WRITE_EVERY_S", 0.0)
    path, seen = tmp_path / "status.json", []
    with watched(path, ["score", "search"]) as status:
        assert status is not None
        status.begin("score")
        for _ in track(range(3), "calibrate", total=3):
            step = read_status(path).step
            seen.append(None if step is None else (step.description, step.completed, step.total))
        status.end("score", skipped=False, seconds=2.0)
        assert read_status(path).step is None
    assert seen == [None, ("calibrate", 1, 3), ("calibrate", 2, 3)]
    assert read_status(path).state == "finished"
    for _ in track(range(3), "later", total=3):  # nobody listens any more
        pass
    assert read_status(path).step is None


def test_the_file_is_written_now_and_then_alone(tmp_path: Path) -> None:
    status = StatusFile(tmp_path / "status.json", ["score"])
    status.advance(STEP)
    assert read_status(tmp_path / "status.json").step is None


def test_a_killed_run_is_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom minitron.pipeline.status import watched\n"
        "with watched(Path(sys.argv[1]), ['score', 'search']) as status:\n"
        "    status.begin('score')\n    print('begun', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert (read_status(path).state, states(path)["score"]) == ("running", "running")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert read_status(path).state == "interrupted"
    assert states(path) == {"score": "interrupted", "search": "waiting"}


def test_a_run_on_another_machine_is_believed(tmp_path: Path) -> None:
    StatusFile(tmp_path / "status.json", ["score"])
    written = json.loads((tmp_path / "status.json").read_text())
    (tmp_path / "status.json").write_text(json.dumps({**written, "host": "another", "process": 1 << 22}))
    assert read_status(tmp_path / "status.json").state == "running"


def test_a_second_process_leaves_the_status_to_the_first(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    with locked(path), watched(path, ["score"]) as status:
        assert status is None
    assert not path.exists()


def test_a_status_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "status.json"
    with watched(path, ["score"]) as status:
        assert status is not None
        path.unlink()
        path.mkdir()
        for _ in range(2):
            status.begin("score")
    assert len(caplog.records) == 1


def test_the_command_says_how_far_a_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("run")
    (folder / "distill.partial").mkdir(parents=True)
    status = StatusFile(folder / "status.json", ["score", "distill", "evaluate"])
    status.end("score", skipped=False, seconds=75.2)
    status.begin("distill")
    status._next = 0.0
    status.advance(STEP)
    assert main(["status", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("running", "0:01:15", "run/distill.partial"))
    assert "distill, loss 0.5000: 40 of 120, 0:01:30 left; last seen 0:00:0" in shown
    assert main(["status", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["step"]["completed"]) == ("running", 40)


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "must be the folder of a run that has begun" in capsys.readouterr().err
