"""Writing: whole or not at all, a few rows at a time, and refused in one line where it cannot go on."""

import importlib.util
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import minitron
from minitron.artifacts import disk_space
from minitron.artifacts.locks import locked
from minitron.checkpoints import reading
from minitron.cli.main import main
from minitron.errors import MinitronError
from minitron.integrations.gguf import tensors as gguf_tensors
from minitron.integrations.gguf import writer
from minitron.integrations.gguf.settings import DTYPES
from tests.support.gguf_files import SHAPES, read_gguf, write_exportable
from tests.support.models import make_dense_shape
from tests.support.paths import ROOT, TEACHER
from tests.support.torch_free import run_commands


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_exportable(tmp_path / "teacher", SHAPES["llama"])


def change_weights(folder: Path, name: str, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name][3, 5] = value
    save_file(weights, folder / "model.safetensors")


def test_the_size_of_the_runs_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("llama", "nemotron_h_moe, latent"):
        folder = write_exportable(tmp_path / kind, SHAPES[kind])
        for dtype in (None, "bf16"):
            whole = minitron.export(folder, output=tmp_path / f"{kind} {dtype}.gguf", dtype=dtype).output
            monkeypatch.setattr(gguf_tensors.read_encoded, "__kwdefaults__", {"numbers": 7})
            small = minitron.export(folder, output=tmp_path / f"{kind} {dtype} small.gguf", dtype=dtype).output
            monkeypatch.undo()
            assert small.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("dtype", [None, "q8_0"])
def test_no_more_than_a_run_of_rows_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str | None) -> None:
    shape = make_dense_shape("llama", hidden_size=96, intermediate_size=700, vocab_size=800)
    folder = write_exportable(tmp_path / "teacher", shape)
    held = []

    def read(stored: Any, *, first: int = 0, count: int | None = None) -> Any:
        rows = reading.read_fp32(stored, first=first, count=count)
        held.append(rows.size)
        return rows

    def fill(file: Any, run: Any) -> None:
        reading.fill(file, run)
        held.append(run.size)

    monkeypatch.setattr(gguf_tensors, "read_fp32", read)
    monkeypatch.setattr(gguf_tensors, "fill", fill)
    monkeypatch.setattr(gguf_tensors.read_encoded, "__kwdefaults__", {"numbers": 2000})
    minitron.export(folder, output=tmp_path / "model.gguf", dtype=dtype)
    assert sum(held) == shape.params
    assert max(held) <= 2000


def test_the_guide_tells_the_sizes(tmp_path: Path) -> None:
    rows = [line for line in (ROOT / "docs/guides/serve.md").read_text().splitlines() if line.startswith("| `")]
    for dtype in DTYPES:
        done = minitron.export(TEACHER, output=tmp_path / f"{dtype}.gguf", dtype=dtype)
        assert any(f"`{dtype}`" in row and f"| {done.bytes:,} bytes |" in row for row in rows)


def test_it_loads_neither_torch_nor_transformers(tmp_path: Path, folder: Path) -> None:
    arguments = ("export", str(folder), "--format", "gguf", "--output", "model.gguf", "--dtype", "q8_0")
    (ended,) = run_commands([arguments], tmp_path)
    assert ended.code == 0
    assert ended.heavy == []
    assert (tmp_path / "model.gguf").is_file()


def test_the_command_says_what_it_wrote(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(folder), "--format", "gguf", "--output"]
    assert main([*command, str(tmp_path / "a.gguf"), "--dtype", "bf16"]) == 0
    size = (tmp_path / "a.gguf").stat().st_size
    params = SHAPES["llama"].params
    line = rf"{params:,} parameters, 30 tensors \(23 bf16, 7 f32\), {size:,} bytes in .*a\.gguf"
    assert re.fullmatch(line, capsys.readouterr().out.strip())
    assert main([*command, str(tmp_path / "b.gguf"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {
        "output": str(tmp_path / "b.gguf"),
        "format": "gguf",
        "architecture": "llama",
        "pre_tokenizer": "gpt-2",
        "params": params,
        "tensors": 30,
        "types": {"f32": 30},
        "bytes": (tmp_path / "b.gguf").stat().st_size,
    }


def test_a_failure_leaves_no_file(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = reading.read_fp32
    calls = []

    def fail_at_last(stored: Any, **rows: Any) -> Any:
        calls.append(stored)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return real(stored, **rows)

    monkeypatch.setattr(gguf_tensors, "read_fp32", fail_at_last)
    with pytest.raises(KeyboardInterrupt):
        minitron.export(folder, output=tmp_path / "model.gguf", dtype="bf16")
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("f16", 70000.0, "numbers of blk.1.ffn_up.weight must be at most 65504 in f16, one is 70000; choose another"),
        ("f16", float("nan"), "one is nan"),
        ("q8_0", float("inf"), "one is inf"),
    ],
)
def test_a_number_that_the_type_does_not_hold_is_refused(
    tmp_path: Path, dtype: str, value: float, message: str
) -> None:
    folder = write_exportable(tmp_path / "teacher", make_dense_shape("llama", hidden_size=96))
    change_weights(folder, "model.layers.1.mlp.up_proj.weight", value)
    with pytest.raises(MinitronError, match=re.escape(message)):
        minitron.export(folder, output=tmp_path / "model.gguf", dtype=dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]
    _, tensors = read_gguf(minitron.export(folder, output=tmp_path / "model.gguf", dtype="bf16").output)
    np.testing.assert_equal(tensors["blk.1.ffn_up.weight"].numbers()[3, 5], float(torch.tensor(value).bfloat16()))


def test_an_output_that_is_there_stays(tmp_path: Path, folder: Path) -> None:
    output = tmp_path / "model.gguf"
    output.write_text("mine")
    with pytest.raises(MinitronError, match=r"the output must be a new file, .*model\.gguf exists"):
        minitron.export(folder, output=output)
    assert output.read_text() == "mine"
    with pytest.raises(MinitronError, match=r"the output must lie in a folder, .*model\.gguf is a file"):
        minitron.export(folder, output=output / "inside.gguf")
    with pytest.raises(MinitronError, match="another process is writing"), locked(tmp_path / "other.gguf"):
        minitron.export(folder, output=tmp_path / "other.gguf")


def test_an_output_that_appears_meanwhile_stays(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def locked_late(output: Path) -> Iterator[None]:
        output.write_text("another's")
        yield

    monkeypatch.setattr(writer, "locked", locked_late)
    with pytest.raises(MinitronError, match="must be a new file"):
        minitron.export(folder, output=tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_text() == "another's"


def test_a_new_folder_is_made(tmp_path: Path, folder: Path) -> None:
    assert minitron.export(str(folder), output=str(tmp_path / "a" / "b" / "model.gguf")).output.is_file()


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(MinitronError, match="GiB free for the GGUF file"):
        minitron.export(folder, output=tmp_path / "model.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_the_package_that_writes_must_be_installed(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else real(name))
    with pytest.raises(MinitronError, match=r"pip install 'minitron\[gguf\]'$"):
        minitron.export(folder, output=tmp_path / "model.gguf")


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_exportable(tmp_path / "teacher", SHAPES["nemotron_h"])
    weights = load_file(folder / "model.safetensors")
    weights["mtp.layers.0.enorm.weight"] = torch.ones(22)
    save_file(weights, folder / "model.safetensors")
    done = minitron.export(folder, output=tmp_path / "model.gguf")
    assert done.params == SHAPES["nemotron_h"].params
    assert "1 tensors of layers that predict further tokens are left out" in caplog.text
