"""The checks of a GPU: every one runs at tiny sizes on CPU, and whatever happens in one is a row of the answer."""

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.paths import ROOT

ROW_KEYS = {"check", "measured", "value", "unit", "reference", "reference_is", "state", "note", "ratio"}


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def tiny() -> Any:
    target = module("gpu_checks.target")
    return target.Target(device="cpu", sizes=target.TINY)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks start as in a process of their own, but in this one, where all is imported already."""

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        return SimpleNamespace(returncode=module("gpu_check").main(command[2:]))

    stand_in = SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(module("gpu_checks.isolation"), "subprocess", stand_in)


@pytest.mark.usefixtures("in_this_process")
def test_every_check_runs_on_cpu_and_is_in_table_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "answer.json"
    assert module("gpu_check").main(["--device", "cpu", "--tiny", "--json", str(path)]) == 0
    answer = json.loads(path.read_text())
    assert set(answer) == {"format", "date", "machine", "tiny", "seconds", "ok", "rows"}
    assert (answer["format"], answer["tiny"], answer["ok"]) == (1, True, True)
    assert set(answer["machine"]) == {"device", "memory_gib", "driver", "cuda", "python", "versions"}
    assert answer["machine"]["versions"]["torch"] == version("torch")
    rows = answer["rows"]
    assert all(set(row) == ROW_KEYS for row in rows)
    assert list(dict.fromkeys(row["check"] for row in rows)) == list(module("gpu_checks").CHECKS)
    for row in rows:
        assert row["state"] == "ok" or (row["state"] == "not run" and row["value"] is None and row["note"])
        assert row["ratio"] is None or row["ratio"] == row["value"] / row["reference"]
    not_measured = [row["measured"] for row in rows if row["note"].startswith("not measured")]
    assert len([name for name in not_measured if "peak memory" in name]) == 4
    kernel_ran = any(row["measured"].startswith("kernel, ") for row in rows)
    assert kernel_ran == (importlib.util.find_spec("triton") is not None)
    shown = capsys.readouterr()
    assert "tokens a second" in shown.out
    assert "[5/5] mamba" in shown.err


@pytest.mark.usefixtures("in_this_process")
def test_a_check_that_breaks_off_is_a_row_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = module("gpu_checks.row").Row

    def breaks(_: Any) -> Iterator[Any]:
        yield row(measured="before", value=1.0)
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(module("gpu_checks.kernel"), "run", breaks)
    monkeypatch.setattr(module("gpu_checks.mamba"), "run", lambda _: iter([row(measured="after")]))
    path = tmp_path / "answer.json"
    words = ["--device", "cpu", "--tiny", "--only", "kernel", "mamba", "--json", str(path)]
    assert module("gpu_check").main(words) == 1
    answer = json.loads(path.read_text())
    assert not answer["ok"]
    assert [(row["measured"], row["state"], row["note"]) for row in answer["rows"]] == [
        ("before", "ok", ""),
        ("the check", "failed", "RuntimeError: first line"),
        ("after", "ok", ""),
    ]


@pytest.mark.parametrize(
    ("program", "limit_s", "note"),
    [
        ("import os; os.abort()", 60, "its process ended by signal 6"),
        ("raise SystemExit(3)", 60, "its process ended by code 3"),
        ("import time; time.sleep(60)", 0.3, "took longer than its share of the time, 0 s"),
    ],
)
def test_a_process_that_does_not_end_as_it_should_is_a_failed_row(
    program: str, limit_s: float, note: str, tmp_path: Path
) -> None:
    rows, row = tmp_path / "rows", module("gpu_checks.row").Row(measured="before", value=2.0, reference=4.0)
    rows.write_text(json.dumps(row.to_json()) + "\n")
    command = [sys.executable, "-S", "-c", program]
    found = module("gpu_checks.isolation").run_apart(command, rows, environment={}, limit_s=limit_s)
    assert found[0] == row
    assert [(each.state, each.note) for each in found[1:]] == [("failed", note)]


def test_without_a_gpu_one_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert module("gpu_check").main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("no CUDA device: torch ")
    assert shown.err.count("\n") == 1


def test_a_wrong_kernel_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton is not installed, `make test-kernels` installs it")
    fused = module("minitron.distill.loss.fused")
    right = fused.fused_rows_

    def wrong(*args: Any) -> Any:
        losses_C, entropies_C = right(*args)
        return losses_C * 1.001, entropies_C

    monkeypatch.setattr(fused, "fused_rows_", wrong)
    found = {row.measured: row.state for row in module("gpu_checks.kernel").run(tiny())}
    assert found["kernel, reverse KL: values"] == "failed"
    assert found["kernel, reverse KL: gradient"] == "ok"


def test_kernels_of_mamba_that_differ_from_torch_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    mamba = module("gpu_checks.mamba")
    assert {row.state for row in mamba.compare_mixers(tiny())} == {"ok"}
    right = mamba.modeling.mamba2_chunk_scan

    def without_skip(*args: Any, **settings: Any) -> Any:
        return right(*args, **{**settings, "D": None})

    # As a kernel is put before torch's function.
    without_skip.__wrapped__ = right.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.setattr(mamba.modeling, "mamba2_chunk_scan", without_skip)
    found = {row.measured: row.state for row in mamba.compare_mixers(tiny())}
    assert found["mixer, inference: output"] == found["mixer, training: gradient of input"] == "failed"


@pytest.fixture
def timed() -> Any:
    return module("training_steps").TimedSteps(
        teacher_params=2, student_params=1, seconds=(2.0, 1.0, 4.0), tokens_per_s=1000.0
    )


def test_fewer_blocks_are_trained_where_more_do_not_fit(monkeypatch: pytest.MonkeyPatch, timed: Any) -> None:
    training = module("gpu_checks.training")

    def only_small(teacher: Any, *_: Any) -> Any:
        if teacher.num_hidden_layers > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.\nMore words")
        return timed

    monkeypatch.setattr(training, "time_steps", only_small)
    target = replace(tiny(), sizes=replace(tiny().sizes, patterns=("M-M*", "M-*")))
    rows = list(training.run(target))
    assert (rows[0].state, rows[0].note) == ("not run", "CUDA out of memory.")
    assert "3 blocks (M-*)" in rows[1].note


def on_a_card(
    name: str, monkeypatch: pytest.MonkeyPatch, timed: Any, capability: tuple[int, int] = (8, 6)
) -> dict[str, Any]:
    """Rows of training as on a card, all of which torch would say being made up."""
    gib = 2**30
    made_up = {
        "get_device_name": lambda: name,
        "mem_get_info": lambda: (20 * gib, 24 * gib),
        "max_memory_allocated": lambda: 3 * gib,
        "max_memory_reserved": lambda: 4 * gib,
        "get_device_capability": lambda device: capability,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda: None,
    }
    for function, answer in made_up.items():
        monkeypatch.setattr(torch.cuda, function, answer)
    training = module("gpu_checks.training")
    fast = replace(timed, tokens_per_s=1250.0)
    monkeypatch.setattr(training, "time_steps", lambda *given: fast if given[-1].precision == "fp8" else timed)
    return {row.measured: row for row in training.run(replace(tiny(), device="cuda"))}


def test_speed_and_memory_stand_beside_the_cards_peak_and_the_estimate(
    monkeypatch: pytest.MonkeyPatch, timed: Any
) -> None:
    rows = on_a_card("NVIDIA A10G", monkeypatch, timed)
    assert rows["a step of 1 x 32 tokens"].value == 2.0
    mfu, counted = rows["MFU"], rows["MFU with recomputation, a dry run's devices.mfu"]
    operations = mfu.value * 125e12 / 1000
    # Six a weight and token of the student, two of the teacher; at these widths scan and attention are as much again.
    weights = 6 * 1.32e6 + 2 * 1.53e6
    assert weights < operations < 2 * weights
    assert mfu.value < counted.value < 4 / 3 * mfu.value
    assert rows["tokens a second"].ratio == pytest.approx(counted.ratio)
    tensors, allocator = rows["peak memory of tensors"], rows["peak memory of the allocator"]
    assert (tensors.value, allocator.value) == (3, 4)
    assert allocator.reference - tensors.reference == pytest.approx(1.5)
    in_fp8 = rows["tokens a second with precision fp8"]
    assert (in_fp8.state, in_fp8.value) == ("not run", None)
    assert "capability 8.9 or above, got one of 8.6" in in_fp8.note
    assert ("assumes Mamba's kernels" in tensors.note) == (importlib.util.find_spec("mamba_ssm") is None)


def test_a_card_whose_peak_is_not_known_is_named(monkeypatch: pytest.MonkeyPatch, timed: Any) -> None:
    rows = on_a_card("NVIDIA Unheard-of 9000", monkeypatch, timed)
    assert rows["MFU"].state == "not run"
    assert "Unheard-of 9000 is not known" in rows["MFU"].note
    assert rows["tokens a second"].value == 1000.0


def test_steps_in_fp8_stand_beside_those_in_bf16(monkeypatch: pytest.MonkeyPatch, timed: Any) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "torchao" else found(name))
    row = on_a_card("NVIDIA H100 80GB HBM3", monkeypatch, timed, (9, 0))["tokens a second with precision fp8"]
    assert (row.state, row.value, row.ratio, row.reference_is) == ("ok", 1250.0, 1.25, "in bf16")
