"""Several processes cut a checkpoint together: to the files of one process, killed at any moment or not."""

import random
import time
from pathlib import Path

import pytest
import torch

from minitron.artifacts.header import STATE_FOLDER
from minitron.checkpoints.checkpoint import PLAN_FILE, Checkpoint, open_checkpoint
from minitron.checkpoints.weights import open_weights
from minitron.checkpoints.writing.journal import RECORD
from minitron.cli.main import main
from minitron.prune.plan import load_plan
from tests.pipeline.stages import prune_ranks_program
from tests.pipeline.stages.prune_ranks_program import cut_to
from tests.support.folders import contents
from tests.support.models import write_tiny_checkpoint
from tests.support.processes import run_ranks, start_ranks
from tests.support.recipes import write_tiny_recipe

pytestmark = pytest.mark.processes

WAYS = ("cut", "widths compensated", "compensated repaired")
SLOW_WAYS = ("widths compensated repaired epochs",)
KILLS = 14


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("cut-together") / "teacher")


@pytest.fixture(scope="module")
def text(teacher: Path) -> Path:
    path = teacher.with_name("text.txt")
    path.write_text("\n---\n".join(f"line {i} of text" + " and more" * (i % 3) for i in range(60)))
    return path


def together(teacher: Path, text: Path, output: Path, ways: tuple[str, ...], world_size: int = 2) -> Path:
    codes = run_ranks(prune_ranks_program.main, teacher, text, output, ways, world_size=world_size, log=output)
    assert codes == [0] * world_size, "".join(path.read_text() for path in output.glob("*.err"))
    return output


@pytest.fixture(scope="module")
def shared(teacher: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return together(teacher, text, tmp_path_factory.mktemp("shared"), WAYS)


def assert_same_cut(found: Path, expected: Path) -> None:
    """The same plan, files and weights, but for roundings."""
    one, other = (load_plan(folder.with_name(PLAN_FILE)) for folder in (found, expected))
    assert one.target == other.target
    assert [path.name for path in sorted(found.iterdir())] == [path.name for path in sorted(expected.iterdir())]
    opened, wanted = open_checkpoint(found), open_checkpoint(expected)
    assert len({tensor.file for tensor in wanted.tensors.values()}) > 3
    assert_close(opened, wanted, 1e-5)


def assert_close(found: Checkpoint, expected: Checkpoint, tolerance: float) -> None:
    with open_weights(found) as read, open_weights(expected) as read_expected:
        for name in expected.tensors:
            weight = read_expected(name)
            atol = tolerance * float(weight.abs().mean())
            torch.testing.assert_close(read(name), weight, rtol=tolerance, atol=atol, msg=name)


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_write_the_checkpoint_of_one(
    shared: Path, teacher: Path, text: Path, tmp_path: Path, way: str
) -> None:
    assert [path.name for path in sorted(shared.glob("process-*.json"))] == ["process-0.json", "process-1.json"]
    cut_to(teacher, text, tmp_path / "checkpoint", way)
    assert_same_cut(shared / way / "checkpoint", tmp_path / "checkpoint")
    if "repaired" not in way:  # moments alone are summed in another order
        assert contents(shared / way / "checkpoint") == contents(tmp_path / "checkpoint")


@pytest.mark.parametrize("way", WAYS)
def test_what_two_processes_have_finished_is_taken_by_one(shared: Path, teacher: Path, text: Path, way: str) -> None:
    output = shared / way / "checkpoint"
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.safetensors")}
    assert len(before) > 3
    cut_to(teacher, text, output, way)
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("*.safetensors")} == before


@pytest.mark.slow
@pytest.mark.parametrize("way", [*WAYS, *SLOW_WAYS])
def test_three_processes_write_the_checkpoint_of_one(teacher: Path, text: Path, tmp_path: Path, way: str) -> None:
    cut_to(teacher, text, tmp_path / "checkpoint", way)
    output = together(teacher, text, tmp_path, (way,), world_size=3) / way / "checkpoint"
    if "epochs" not in way:
        assert_same_cut(output, tmp_path / "checkpoint")
        return
    assert load_plan(output.with_name(PLAN_FILE)).target == load_plan(tmp_path / PLAN_FILE).target
    assert_close(open_checkpoint(output), open_checkpoint(tmp_path / "checkpoint"), 1e-3)


def progress(folder: Path) -> int:
    """Files that are whole: those of the cut, and blocks that are repaired."""
    return len([*folder.glob("checkpoint/*.safetensors"), *folder.glob(f"{STATE_FOLDER}/repaired-*.safetensors")])


@pytest.mark.slow
def test_kills_at_any_moment_change_no_bit(teacher: Path, text: Path, tmp_path: Path) -> None:
    way = SLOW_WAYS[0]
    (tmp_path / "whole").mkdir()
    whole = contents(together(teacher, text, tmp_path / "whole", (way,)) / way / "checkpoint")
    rng, output = random.Random(0), tmp_path / "killed"
    output.mkdir()
    most = progress(tmp_path / "whole" / way)
    found = []
    for kill in range(KILLS):
        processes = start_ranks(prune_ranks_program.main, teacher, text, output, (way,), log=output)
        target = round(kill / KILLS * most)
        while progress(output / way) < target and all(process.exitcode is None for process in processes):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        rng.shuffle(processes)
        for process in processes:  # one of them a moment before the other
            process.kill()
            time.sleep(rng.uniform(0, 0.01))
        for process in processes:
            process.join()
        found.append(progress(output / way))
    journals = [*output.rglob(f"{RECORD}*.json")]
    assert any(0 < each < most for each in found), found
    together(teacher, text, output, (way,))
    assert contents(output / way / "checkpoint") == whole
    assert not [*output.rglob(f"{RECORD}*.json")], journals


def test_the_function_gives_what_it_gives_in_one_process_and_takes_it_again(
    teacher: Path, text: Path, tmp_path: Path
) -> None:
    scores = tmp_path / "scores"
    sizes = ["--samples", "5", "--seq-len", "16"]
    assert main(["score", str(teacher), "--data", str(text), "--output", str(scores), *sizes]) == 0
    prune_ranks_program.prune_to_kept_tokens(teacher, text, scores, tmp_path / "one")
    for _ in range(2):
        codes = run_ranks(
            prune_ranks_program.prune_to_kept_tokens, teacher, text, scores, tmp_path / "two", log=tmp_path
        )
        assert codes == [0, 0], (tmp_path / "rank-0.err").read_text()
    assert not list(tmp_path.glob("*.partial"))
    one, two = (contents(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert {name for name in one if one[name] != two[name]} <= {"artifact.json"}  # which says when


def test_the_stage_is_run_by_all_processes_of_a_launch(tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path)
    common = ["run", str(recipe), "--set", "prune.repair={samples: 6, seq_len: 16, batch_size: 2}"]
    for name in ("one", "two"):
        assert main([*common, "--output", str(tmp_path / name), "--to", "search"]) == 0
    assert main([*common, "--output", str(tmp_path / "one"), "--to", "prune"]) == 0
    codes = run_ranks(main, [*common, "--output", str(tmp_path / "two"), "--to", "prune"], log=tmp_path)
    assert codes == [0, 0], (tmp_path / "rank-0.err").read_text()
    one, two = (open_checkpoint(tmp_path / name / "prune" / "checkpoint") for name in ("one", "two"))
    assert_close(two, one, 1e-5)
    assert not (tmp_path / "two" / "prune" / STATE_FOLDER).exists()
