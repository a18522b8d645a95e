"""Evaluation from Python and from the command line: block by block, and in bf16."""

import json
from pathlib import Path

import pytest

import minitron
from minitron.cli.main import main
from tests.support.models import make_tiny_shape, write_tiny_checkpoint

SETTINGS = {"sequences": 3, "seq_len": 32, "speed": None}
WORDS = ("--sequences", "3", "--seq-len", "32", "--context", "64")


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n---\n".join(f"line {number} of it" for number in range(40)))
    write_tiny_checkpoint(tmp_path / "student", shape=make_tiny_shape(intermediate_size=29))
    return tmp_path


def test_the_command_line_evaluates_block_by_block(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = minitron.evaluate("student", "text.txt", teacher="teacher", settings=SETTINGS, context=64)
    command = ["eval", "student", "--data", "text.txt", "--teacher", "teacher", *WORDS, "--layerwise"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["speed"] is None
    assert (found["params"], found["memory"]["weights_bytes"]) == (whole.params, whole.memory.weights_bytes)
    for name in ("loss", "bits_per_byte", "kl_to_teacher"):
        assert found[name] == pytest.approx(getattr(whole, name), rel=2e-6)
    assert main(command) == 0
    assert "not measured" in capsys.readouterr().out


def test_bf16_moves_the_numbers_a_little_and_auto_on_a_cpu_not_at_all(folder: Path) -> None:
    wide, auto, narrow = (
        minitron.evaluate("student", "text.txt", teacher="teacher", settings={**SETTINGS, **dtype}, device="cpu")
        for dtype in ({"dtype": "fp32"}, {}, {"dtype": "bf16"})
    )
    assert auto == wide
    assert narrow.loss != wide.loss
    assert narrow.loss == pytest.approx(wide.loss, rel=0.02)


def test_speed_is_measured_only_where_it_is_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "student", "--data", "text.txt", *WORDS, "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["speed"] is None
    short = {"input_tokens": 2, "output_tokens": 2, "repetitions": 1, "concurrency": 1}
    given = {"sequences": 3, "seq_len": 32}
    assert minitron.evaluate("student", "text.txt", settings=given).speed is None
    assert minitron.evaluate("student", "text.txt", settings={**given, "speed": short}).speed is not None
    assert main([*command, "--speed", "--layerwise"]) == 2
    assert "need whole models" in capsys.readouterr().err
