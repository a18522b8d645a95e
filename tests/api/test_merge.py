"""`minitron merge`: whole or not there, taken again when it is finished, and open about what it was made from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from minitron.api import merge as merge_module
from minitron.artifacts.artifact import working_folder
from minitron.checkpoints.checkpoint import checkpoint_hashes, open_checkpoint
from minitron.checkpoints.lineage import add_step, lineage_of, read_lineage, write_lineage
from minitron.cli.main import main
from tests.support.merging import assert_same_bits, read, write_variant

Pair = tuple[Path, Path]


@pytest.fixture
def pair(tmp_path: Path, tiny_checkpoint: Path) -> Pair:
    return tiny_checkpoint, write_variant(tiny_checkpoint, tmp_path / "other", seed=1)


def merge(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> dict[str, Any]:
    assert main(["merge", *map(str, argv), "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def fail(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    assert main(["merge", *map(str, argv)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_merging_is_by_halves_unless_told_otherwise(
    tmp_path: Path, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "merged"
    answer = merge(capsys, *pair, "--output", output)
    merged = open_checkpoint(output)
    assert answer == {"output": str(output), "params": merged.params, "weights": [0.5, 0.5]}
    first, second = map(read, pair)
    for name, tensor in read(output).items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)
    away = merge(capsys, *pair, "--weights", "-0.25", "1.25", "--output", tmp_path / "away")
    assert away["weights"] == [-0.25, 1.25]
    assert main(["merge", *map(str, pair), str(pair[0]), "--output", str(tmp_path / "three")]) == 0
    assert "0.333333 of" in capsys.readouterr().out


def test_a_lineage_goes_on_and_a_card_names_every_source(
    tmp_path: Path, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    first = open_checkpoint(pair[0])
    hashes = [checkpoint_hashes(folder) for folder in pair]
    write_lineage(add_step(lineage_of(first, hashes=hashes[0]), "distill", tokens=7), first.folder)
    merge(capsys, *pair, "--output", tmp_path / "merged", "--weights", "0.25", "0.75")
    lineage = read_lineage(tmp_path / "merged")
    assert lineage is not None
    assert [step["step"] for step in lineage["steps"]] == ["distill", "merge"]
    step = lineage["steps"][1]
    assert step["weights"] == [0.25, 0.75]
    assert step["sources"] == [
        {"name": folder.name, "sha256": found} for folder, found in zip(pair, hashes, strict=True)
    ]
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "then merged with other checkpoints of its shape." in card
    assert f"| merged checkpoints | {pair[0].name}, {pair[1].name} |" in card
    assert "| weights | 0.25, 0.75 |" in card
    assert hashes[1]["model"] in card
    assert str(tmp_path) not in card


def test_a_finished_merge_is_taken_again_and_never_overwritten(
    tmp_path: Path, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "merged"
    answer = merge(capsys, *pair, "--output", output)
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in output.iterdir()}
    assert merge(capsys, *pair, "--output", output, "--weights", "0.5", "0.5") == answer
    assert "must be new or empty" in fail(capsys, *pair, "--output", output, "--weights", "0.4", "0.6")
    assert "must be new or empty" in fail(capsys, *reversed(pair), "--output", output)
    assert "must be new or empty" in fail(capsys, output, pair[1], "--output", output)
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in output.iterdir()} == before
    assert not working_folder(output).exists()


def test_a_merge_is_a_source_like_another(tmp_path: Path, pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    merge(capsys, *pair, "--output", tmp_path / "one")
    merge(capsys, tmp_path / "one", pair[1], "--output", tmp_path / "two", "--weights", "1", "0")
    assert_same_bits(read(tmp_path / "two"), read(tmp_path / "one"))
    assert checkpoint_hashes(tmp_path / "two") == checkpoint_hashes(tmp_path / "one")


def test_a_refusal_is_one_line_and_leaves_nothing(
    tmp_path: Path, pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "merged"
    assert "two checkpoints or more are merged, got 1" in fail(capsys, pair[0], "--output", output)
    assert "must sum to 1" in fail(capsys, *pair, "--output", output, "--weights", "0.5", "0.6")
    (pair[1] / "tokenizer.json").write_text("{}")
    assert "must list its tokens" in fail(capsys, *pair, "--output", output)
    config = json.loads((pair[1] / "config.json").read_text())
    (pair[1] / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_algo": "FP8"}}))
    assert "must not be quantized here" in fail(capsys, *pair, "--output", output)
    assert not output.exists()
    assert not working_folder(output).exists()


def test_what_an_interrupted_merge_left_is_made_anew(
    tmp_path: Path, pair: Pair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, whole = tmp_path / "merged", tmp_path / "whole"
    merge(capsys, *pair, "--output", whole)

    def stop(*_args: Any, **_options: Any) -> None:
        raise OSError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(merge_module, "write_provenance", stop)
        assert main(["merge", *map(str, pair), "--output", str(output)]) == 1
    assert "stopped" in capsys.readouterr().err
    assert not output.exists()
    merge(capsys, *pair, "--output", output)
    assert_same_bits(read(output), read(whole))
    assert {path.name for path in output.iterdir()} == {path.name for path in whole.iterdir()}


def test_a_source_that_changes_meanwhile_leaves_no_merge(
    tmp_path: Path, pair: Pair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = merge_module.merge_checkpoints

    def change_and_merge(*args: Any, **options: Any) -> Any:
        merged = original(*args, **options)
        (pair[1] / "generation_config.json").write_text("{}")
        return merged

    monkeypatch.setattr(merge_module, "merge_checkpoints", change_and_merge)
    assert "must not change while they are merged" in fail(capsys, *pair, "--output", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
