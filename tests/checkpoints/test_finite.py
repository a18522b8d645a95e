"""A weight that is not a number is named, by whatever computes with it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minitron.checkpoints import finite
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.finite import naming_weights, require_finite
from minitron.checkpoints.headers import SINGLE_FILE
from minitron.errors import CheckpointError, NotFiniteError
from tests.support.commands import fail
from tests.support.models import write_tiny_checkpoint
from tests.support.recipes import write_tiny_recipe

BROKEN = "backbone.layers.1.mixer.up_proj.weight"
SMALL = ("--sequences", "2", "--seq-len", "16")


def break_weight(folder: Path, value: float = torch.nan, name: str = BROKEN) -> Path:
    tensors = load_file(folder / SINGLE_FILE)
    tensors[name].view(-1)[-3] = value
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_the_tensor_is_found_wherever_in_it_the_number_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, value: float
) -> None:
    monkeypatch.setattr(finite, "ROWS_BYTES", 4 * 22 * 5)
    folder = write_tiny_checkpoint(tmp_path / "a", dtype=dtype)
    require_finite(open_checkpoint(folder))
    break_weight(folder, value)
    with pytest.raises(CheckpointError, match=f"1 of 792 in {BROKEN} of .*{SINGLE_FILE} are not"):
        require_finite(open_checkpoint(folder))


def test_a_model_that_overflows_with_finite_weights_keeps_its_own_line(tiny_checkpoint: Path) -> None:
    with pytest.raises(NotFiniteError, match="^too large$"), naming_weights(open_checkpoint(tiny_checkpoint)):
        raise NotFiniteError("too large")
    break_weight(tiny_checkpoint)
    with pytest.raises(CheckpointError, match=BROKEN), naming_weights(open_checkpoint(tiny_checkpoint)):
        raise NotFiniteError("too large")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tiny_recipe(tmp_path)
    write_tiny_checkpoint(tmp_path / "whole")
    break_weight(tmp_path / "teacher")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "argv",
    [
        ("eval", "teacher", "--data", "heldout.txt", *SMALL, "--json"),
        ("eval", "whole", "--teacher", "teacher", "--data", "heldout.txt", *SMALL, "--json"),
        ("score", "teacher", "--data", "text.txt", "--output", "new", "--samples", "2", "--seq-len", "16"),
        ("run", "recipe.yaml"),
        ("distill", "recipe.yaml", "--cache-teacher", "--set", "distill.teacher.top_k=5"),
        ("quantize", "teacher", "--format", "w8a8", "--output", "new"),
    ],
    ids=" ".join,
)
def test_every_command_that_computes_names_the_tensor(
    workplace: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    assert f"{BROKEN}" in fail(capsys, *argv)


def test_json_is_valid_whatever_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    from argparse import Namespace

    from minitron.cli.output import print_result

    print_result(Namespace(json=True), {"a": [1.0, torch.nan, (torch.inf, 2)], "b": {"c": -torch.inf}, "d": "NaN"})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == {"a": [1.0, None, [None, 2]], "b": {"c": None}, "d": "NaN"}
