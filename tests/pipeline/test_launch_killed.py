"""One launch through every stage: by torchrun, on two agents, killed at random moments, and after an agent is lost."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch

import minitron
from minitron.importance.scores import load_scores
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.runner import run_pipeline
from minitron.pipeline.stage_list import STAGE_NAMES
from minitron.prune.plan import load_plan
from minitron.recipe.load import load_recipe
from minitron.runtime.loading import load_model
from tests.pipeline import launched
from tests.support.paths import ROOT
from tests.support.processes import run_ranks, start_ranks
from tests.support.recipes import EVERY_STAGE, write_tiny_recipe

pytestmark = [pytest.mark.slow, pytest.mark.processes]

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
# As the dry run has it; with --cpu, and without --multi_gpu, accelerate starts one process whatever their number.
ACCELERATE = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
    *("--num_machines=1", "--num_processes=2"),
]
# Of one process and two; largest difference of a weight that was found: 6.3e-6, after a repair.
WEIGHTS_ATOL = 2e-5


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes that nothing happens to."""
    folder = tmp_path_factory.mktemp("two") / "run"
    codes = run_ranks(launched.command, words(recipe, folder), log=folder.parent)
    assert codes == [0, 0], (folder.parent / "rank-0.err").read_text()
    assert [stage.name for stage in minitron.status(folder).stages] == list(STAGE_NAMES)
    return folder


def words(recipe: Path, folder: Path) -> list[str]:
    return ["run", str(recipe), "--output", str(folder), *(w for each in EVERY_STAGE for w in ("--set", each))]


def assert_same_bits(folder: Path, other: Path) -> None:
    runs = RunFolder(folder), RunFolder(other)
    for path in ("depth_distilled", "pruned", "student"):
        found, expected = (load_model(getattr(run, path)).state_dict() for run in runs)
        assert found.keys() == expected.keys()
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    found, expected = (run.candidates.read_text() for run in runs)
    assert found == expected
    found, expected = (run.read_metrics() for run in runs)
    assert {name: (each.loss, each.kl_to_teacher, each.exact_match) for name, each in found.items()} == {
        name: (each.loss, each.kl_to_teacher, each.exact_match) for name, each in expected.items()
    }


def test_two_processes_of_every_stage_end_with_the_student_of_one(
    recipe: Path, undisturbed: Path, tmp_path: Path
) -> None:
    for _ in run_pipeline(load_recipe(recipe, EVERY_STAGE), tmp_path / "run"):
        pass
    two, one = RunFolder(undisturbed), RunFolder(tmp_path / "run")
    for scores in ("scores.safetensors",):
        found, expected = (load_scores(run.stage("score") / scores) for run in (two, one))
        np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-4)
    for plan in ("depth_plan", "plan"):
        found, expected = (load_plan(getattr(run, plan)).keep for run in (two, one))
        assert found.layers == expected.layers
        assert all(np.array_equal(found.indices[key], kept) for key, kept in expected.indices.items())
    shapes = [[each.shape for each in run.read_candidates().candidates] for run in (two, one)]
    assert shapes[0] == shapes[1]
    shared, alone = (load_model(run.student).state_dict() for run in (two, one))
    assert shared.keys() == alone.keys()
    for name, weight in alone.items():
        torch.testing.assert_close(shared[name], weight, rtol=0, atol=WEIGHTS_ATOL, msg=name)
    for name, metrics in one.read_metrics().items():
        assert two.read_metrics()[name].loss == pytest.approx(metrics.loss, rel=1e-5)


@pytest.mark.parametrize(
    "launcher", [[*TORCHRUN, "--standalone", "--nproc-per-node=2"], ACCELERATE], ids=["torchrun", "accelerate"]
)
def test_a_launcher_goes_through_every_stage(
    recipe: Path, undisturbed: Path, tmp_path: Path, launcher: list[str]
) -> None:
    done = subprocess.run(
        [*launcher, "-m", "minitron", *words(recipe, tmp_path / "run"), "--json"],
        check=False,
        env=environment(),
        timeout=900,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [stage["name"] for stage in json.loads(done.stdout)["stages"]] == list(STAGE_NAMES)
    assert_same_bits(tmp_path / "run", undisturbed)


def test_a_launch_that_is_killed_ten_times_ends_with_the_same_bits(
    recipe: Path, undisturbed: Path, tmp_path: Path
) -> None:
    rng, folder = random.Random(37), tmp_path / "run"
    seconds = {stage.name: stage.seconds or 0.0 for stage in minitron.status(undisturbed).stages}
    before_the_report = STAGE_NAMES[:-1]
    targets = sorted(rng.choices(before_the_report, k=10), key=STAGE_NAMES.index)
    for target in targets:
        processes = start_ranks(launched.command, words(recipe, folder))
        while not has_reached(folder, target, processes[0].pid) and is_running(processes):
            time.sleep(0.01)
        # At the latest as the next stage begins, where the machine is faster than it was.
        until, following = time.monotonic() + rng.uniform(0, seconds[target]), STAGE_NAMES.index(target) + 1
        while time.monotonic() < until and not has_reached(folder, STAGE_NAMES[following], processes[0].pid):
            time.sleep(0.01)
        assert is_running(processes), "ended before it could be killed"
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 2
    assert run_ranks(launched.command, words(recipe, folder), log=tmp_path) == [0, 0], (
        tmp_path / "rank-0.err"
    ).read_text()
    assert_same_bits(folder, undisturbed)


def is_running(processes: Sequence[BaseProcess]) -> bool:
    return all(process.exitcode is None for process in processes)


def has_reached(folder: Path, stage: str, process: int | None) -> bool:
    """Whether a run's process has begun a stage, or is beyond it."""
    if not RunFolder(folder).status.is_file():
        return False
    status = minitron.status(folder)
    begun = [each.name for each in status.stages if each.state in ("running", "finished")]
    return status.process == process and any(STAGE_NAMES.index(name) >= STAGE_NAMES.index(stage) for name in begun)


def test_an_agent_that_is_lost_and_started_again_goes_on_with_the_other(
    recipe: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "run"
    with agent(recipe, folder, port, tmp_path / "first.log") as first:
        while not is_listening(port):
            assert first.poll() is None, (tmp_path / "first.log").read_text()
            time.sleep(0.1)
        with agent(recipe, folder, port, tmp_path / "second.log") as second:
            # Training has several steps, each of which leaves a state.
            while not list((folder / "depth_distill.partial").rglob("checkpoint-*/whole.json")):
                assert second.poll() is None, (tmp_path / "second.log").read_text()
                time.sleep(0.05)
        assert second.returncode == -signal.SIGKILL
        with agent(recipe, folder, port, tmp_path / "third.log") as third:
            assert first.wait(timeout=900) == 0, (tmp_path / "first.log").read_text()
            assert third.wait(timeout=300) == 0, (tmp_path / "third.log").read_text()
    assert_same_bits(folder, undisturbed)


@contextmanager
def agent(recipe: Path, folder: Path, port: int, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """One of two agents of torchrun, with a process of its own; both are killed where the block leaves them."""
    rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=tiny", "--max-restarts=3"]
    launcher = [*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", *rendezvous, f"--log-dir={log}.d", "-m", "minitron"]
    with log.open("wb") as file:
        # Else an agent keeps the address of the first rank 0, whose agent may be the one that is lost (torch 2.13).
        env = environment() | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        process = subprocess.Popen([*launcher, *words(recipe, folder)], env=env, stdout=file, stderr=file)
        try:
            yield process
        finally:
            workers = children(process.pid)
            for each in (process.pid, *workers):
                kill(each)
            process.wait()


def children(process: int) -> list[int]:
    """Processes that a process has started: torchrun's are in sessions of their own."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(each) for each in path.read_text().split()] if path.exists() else []


def kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
