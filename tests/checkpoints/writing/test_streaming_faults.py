"""What pruning does when files are damaged, lie, change or do not fit, and when it is stopped at any moment."""

import json
import logging
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import minitron.artifacts.disk_space as disk
import minitron.checkpoints.writing.streaming as stream
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.headers import INDEX_FILE, SINGLE_FILE
from minitron.checkpoints.writing.journal import JOURNAL_FILE, is_unfinished
from minitron.prune import checkpoint as checkpoint_module
from minitron.prune.checkpoint import OutputFormat, prune_checkpoint
from tests.checkpoints.writing.prune_program import prune_where_files_are_small
from tests.support.folders import contents, opens
from tests.support.models import write_tiny_checkpoint
from tests.support.plans import make_plan
from tests.support.processes import run

SHARD_BYTES = 4_000
Contents = dict[str, bytes]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "source", shard_bytes=15_000)


@pytest.fixture
def whole(tmp_path: Path, source: Path) -> Contents:
    opened = open_checkpoint(source)
    prune_checkpoint(opened, make_plan(opened.shape), tmp_path / "whole", OutputFormat(shard_bytes=SHARD_BYTES))
    return contents(tmp_path / "whole")


def prune(source: Path, output: Path, *, threads: int | None = None, dtype: str | None = None) -> None:
    opened = open_checkpoint(source)
    written_as = OutputFormat(shard_bytes=SHARD_BYTES, dtype=dtype, threads=threads)
    prune_checkpoint(opened, make_plan(opened.shape), output, written_as)


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException) -> None:
    left = [call]
    write = os.pwrite

    def stopping(*args: Any) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise error
        return write(*args)

    monkeypatch.setattr(stream.os, "pwrite", stopping)


@pytest.mark.parametrize("seed", range(6))
def test_stopped_at_any_write_it_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, source: Path, whole: Contents, seed: int
) -> None:
    before, rng, stops = contents(source), random.Random(seed), 0
    output = tmp_path / "output"
    while True:
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, rng.randint(0, 9), RuntimeError("stopped"))
            try:
                prune(source, output, threads=rng.randint(1, 3))
            except RuntimeError:
                stops += 1
                assert is_unfinished(output)
                assert not opens(output)
                continue
        break
    assert stops >= 3
    assert contents(output) == whole
    assert contents(source) == before


def test_whole_shards_are_not_written_again(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "output"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        stop_at(patch, 20, RuntimeError("stopped"))
        prune(source, output, threads=1)
    kept = {path: path.stat().st_ino for path in output.glob("*.safetensors")}
    assert kept
    prune(source, output, threads=1)
    assert {path: path.stat().st_ino for path in kept} == kept


def test_a_shard_that_was_changed_since_is_written_again(
    tmp_path: Path, source: Path, whole: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        stop_at(patch, 20, RuntimeError("stopped"))
        prune(source, output, threads=1)
    shard = sorted(output.glob("*.safetensors"))[0]
    shard.write_bytes(bytes(len(shard.read_bytes())))
    prune(source, output)
    assert contents(output) == whole


def test_work_with_other_inputs_is_begun_anew_and_said(
    tmp_path: Path, source: Path, whole: Contents, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "output"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        stop_at(patch, 20, RuntimeError("stopped"))
        prune(source, output, dtype="BF16", threads=1)
    with caplog.at_level(logging.WARNING):
        prune(source, output)
    assert "left from an interrupted attempt with other inputs and is cleared" in caplog.text
    assert contents(output) == whole


def test_a_line_of_the_progress_file_without_its_end_counts_for_nothing(
    tmp_path: Path, source: Path, whole: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        stop_at(patch, 20, RuntimeError("stopped"))
        prune(source, output, threads=1)
    content = (output / JOURNAL_FILE).read_bytes()
    (output / JOURNAL_FILE).write_bytes(content[:-5])
    prune(source, output)
    assert contents(output) == whole


def test_unfinished_work_beside_a_stranger_s_file_is_not_touched(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        stop_at(patch, 20, RuntimeError("stopped"))
        prune(source, output)
    (output / "notes.txt").write_text("mine")
    before = contents(output)
    with pytest.raises(ValueError, match=r"must hold unfinished work alone, .* also holds notes.txt"):
        prune(source, output)
    assert contents(output) == before


def test_two_processes_do_not_write_one_folder(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "output"
    write = os.pwrite
    faults: list[str] = []

    def second(*args: Any) -> int:
        if not faults:
            faults.append("tried")
            with pytest.raises(ValueError, match="another process is writing"):
                prune(source, output)
        return write(*args)

    monkeypatch.setattr(stream.os, "pwrite", second)
    prune(source, output)
    assert faults


def test_a_failing_gate_leaves_nothing_that_opens(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: Any) -> None:
        raise ValueError("parameters must agree")

    monkeypatch.setattr(checkpoint_module, "check_params", refuse)
    with pytest.raises(ValueError, match="parameters must agree"):
        prune(source, tmp_path / "output")
    assert not opens(tmp_path / "output")


def test_too_little_room_is_refused_before_anything_is_written(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=2**10))
    with pytest.raises(ValueError, match=r"must have 0.000 GiB free .* it has 0.000 GiB"):
        prune(source, tmp_path / "output")
    assert [path.name for path in (tmp_path / "output").iterdir()] == [JOURNAL_FILE]


def test_what_is_written_already_needs_no_room_again(
    tmp_path: Path, source: Path, whole: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    total = sum(len(content) for name, content in whole.items() if name.endswith(".safetensors"))
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        stop_at(patch, 30, RuntimeError("stopped"))
        prune(source, output, threads=1)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=total - 2 * SHARD_BYTES))
    prune(source, output)
    assert contents(output) == whole


@pytest.mark.processes
def test_a_limit_of_file_size_is_one_line_and_a_later_call_goes_on(
    tmp_path: Path, source: Path, whole: Contents
) -> None:
    output, log = tmp_path / "output", tmp_path / "log"
    assert run(prune_where_files_are_small, source, output, SHARD_BYTES, 12_000, log=log) == 0
    assert "must not fill the filesystem, it did (File too large); make room and call again" in log.read_text()
    assert not opens(output)
    prune(source, output)
    assert contents(output) == whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk takes a root that may mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_is_one_line_and_a_later_call_goes_on(
    source: Path, whole: Contents, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = small_disk / "output"
    with (
        monkeypatch.context() as patch,
        pytest.raises(ValueError, match=r"must not fill .* \(No space left on device\)"),
    ):
        patch.setattr(stream, "require_room", lambda *_args, **_options: None)
        prune(source, output)
    assert not opens(output)
    assert is_unfinished(output)
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    prune(source, output)
    assert contents(output) == whole


def test_a_small_disk_is_measured(source: Path, small_disk: Path) -> None:
    with pytest.raises(ValueError, match="GiB free for the pruned checkpoint"):
        prune(source, small_disk / "output")


@pytest.mark.parametrize("way", ["longer", "shorter", "touched"])
def test_a_source_that_changes_meanwhile_is_refused(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    shard = sorted(source.glob("*.safetensors"))[-1]
    write = os.pwrite
    done: list[int] = []

    def changing(*args: Any) -> int:
        if not done:
            done.append(1)
            content = shard.read_bytes()
            shard.write_bytes({"longer": content + b"x", "shorter": content[:-1], "touched": content}[way])
            os.utime(shard, (1, 1))
        return write(*args)

    monkeypatch.setattr(stream.os, "pwrite", changing)
    with pytest.raises(ValueError, match="must not change while it is read"):
        prune(source, tmp_path / "output", threads=1)
    assert not opens(tmp_path / "output")


def truncate_shard(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])


def remove_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].unlink()


def lie_in_header(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[0]
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b'"F32"', b'"F99"', 1))


def point_outside(folder: Path) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    shard = next(iter(index["weight_map"].values()))
    (folder / shard).rename(folder.parent / shard)
    for name, file in index["weight_map"].items():
        if file == shard:
            index["weight_map"][name] = f"../{shard}"
    (folder / INDEX_FILE).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (truncate_shard, "is truncated"),
        (remove_shard, "checkpoint file not found"),
        (lie_in_header, "dtype of .* must be one of"),
        (point_outside, "must name files in its own folder"),
    ],
)
def test_a_damaged_source_is_refused_and_left_as_it_is(
    tmp_path: Path, source: Path, damage: Callable[[Path], None], fault: str
) -> None:
    damage(source)
    before = contents(source)
    with pytest.raises(ValueError, match=fault):
        prune(source, tmp_path / "output")
    assert contents(source) == before
    assert not (tmp_path / "output").exists()


def test_a_shard_truncated_after_opening_is_refused(tmp_path: Path, source: Path) -> None:
    opened = open_checkpoint(source)
    truncate_shard(source)
    with pytest.raises(ValueError, match="ends before its tensors do"):
        prune_checkpoint(opened, make_plan(opened.shape), tmp_path / "output")
    assert not opens(tmp_path / "output")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.int64])
def test_weights_that_are_not_of_floating_point_are_refused(
    tmp_path: Path, tiny_checkpoint: Path, dtype: torch.dtype
) -> None:
    tensors = load_file(tiny_checkpoint / SINGLE_FILE)
    name = next(name for name in tensors if name.endswith("up_proj.weight"))
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, tiny_checkpoint / SINGLE_FILE)
    with pytest.raises(ValueError, match=r"weights must be one of .* to be pruned, .*up_proj.weight in .* is [IF]"):
        prune(tiny_checkpoint, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_mixed_floating_dtypes_are_pruned_each_in_its_own(tmp_path: Path, tiny_checkpoint: Path) -> None:
    tensors = load_file(tiny_checkpoint / SINGLE_FILE)
    halved = {name: tensor.bfloat16() if name.endswith("proj.weight") else tensor for name, tensor in tensors.items()}
    save_file(halved, tiny_checkpoint / SINGLE_FILE)
    prune(tiny_checkpoint, tmp_path / "output")
    for name, stored in open_checkpoint(tmp_path / "output").tensors.items():
        assert stored.dtype == ("BF16" if name.endswith("proj.weight") else "F32")


def test_the_asked_dtype_is_written_and_said_in_the_config(tmp_path: Path, tiny_checkpoint: Path) -> None:
    prune(tiny_checkpoint, tmp_path / "output", dtype="BF16")
    written = open_checkpoint(tmp_path / "output")
    assert {stored.dtype for stored in written.tensors.values()} == {"BF16"}
    assert {written.config[key] for key in ("dtype", "torch_dtype") if key in written.config} == {"bfloat16"}
