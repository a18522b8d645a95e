"""`minitron init` asks what no file says, and nothing else."""

import io
import json
import sys
from pathlib import Path

import pytest

from minitron.cli.main import main
from minitron.recipe.load import load_recipe
from tests.support.paths import ROOT

TEACHER = ROOT / "examples" / "recipes" / "NVIDIA-Nemotron-Nano-12B-v2"


class Terminal(io.StringIO):
    """Someone who types."""

    def isatty(self) -> bool:
        return True


def init(recipe: Path, *words: str) -> int:
    return main(["init", str(TEACHER), "--output", str(recipe), *words])


def test_what_is_not_given_is_asked_and_an_empty_line_takes_what_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("l4\n\nbooks.txt\nh200\n"))
    recipe = tmp_path / "recipe.yaml"
    assert init(recipe) == 0
    shown = capsys.readouterr()
    assert shown.err.count("]: ") == 4
    assert "GPU that the student is served on [a10g]: " in shown.err
    assert shown.out.startswith(f"wrote {recipe}\n")
    found = load_recipe(recipe)
    assert (found.budget.gpu, found.budget.context_tokens) == ("l4", 131072)
    assert found.devices is not None
    assert (found.devices.gpu, Path(found.score.data[0].path).name) == ("h200", "books.txt")


def test_what_is_given_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("\n"))
    recipe = tmp_path / "recipe.yaml"
    assert init(recipe, "--memory-gib", "20", "--data", "a.txt", "--data", "b.txt", "--train-gpu", "cpu") == 0
    assert capsys.readouterr().err == "Tokens that each served sequence must hold [131072]: "
    assert [Path(source.path).name for source in load_recipe(recipe).distill.data] == ["a.txt", "b.txt"]


def test_scripts_say_yes_and_may_have_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    assert (
        init(recipe, "--yes", "--json", "--tokens", "1000000", "--context", "32768", "--max-params", "9000000000") == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"] == str(recipe)
    assert found["dry_run"]["shapes"]["context_tokens"] == 32768
    assert found["dry_run"]["shapes"]["student"]["params"] <= 9_000_000_000
    assert load_recipe(recipe).distill.tokens == 1_000_000


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "nobody can be asked here: give --gpu, --context, --data, --train-gpu, or --yes for what is suggested"),
        (("--yes", "--gpu", "l4", "--memory-gib", "20"), "only one of --gpu and --memory-gib can be given"),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    line: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert init(tmp_path / "recipe.yaml", *words) == 2
    assert capsys.readouterr().err == f"minitron: {line}\n"
    assert not any(tmp_path.iterdir())


def test_an_answer_that_is_no_number_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("a10g\nmany\n\n\n"))
    assert init(tmp_path / "recipe.yaml") == 2
    assert capsys.readouterr().err.endswith(
        "minitron: tokens of a sequence must be a whole number of at least 1, got 'many'\n"
    )
