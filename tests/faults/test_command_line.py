"""Commands on hostile files end with 0 or 2, and never with a traceback."""

import contextlib
import io
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from minitron.cli.main import main
from tests.faults.fuzzing.mutations import hostile_json
from tests.faults.fuzzing.outcome import MOST_MESSAGE_CHARS
from tests.faults.fuzzing.targets import all_targets
from tests.support.recipes import write_tiny_recipe

INPUTS = 50  # a command
# Reader whose files a command is given -> the command's words, from the file.
COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "config.json": lambda path: ["fit", str(path)],
    "config.json, accounting in pages": lambda path: ["fit", str(path), "--accounting", "vllm", "--json"],
    "quantization_config": lambda path: ["check", str(path), "--reader", "vllm"],
    "checkpoint of such a header": lambda path: ["fit", str(path.parent)],
    "index of shards": lambda path: ["check", str(path.parent), "--reader", "transformers"],
    "pruning plan": lambda path: ["plan", str(path)],
    "run status": lambda path: ["status", str(path.parent)],
    "recipe": lambda path: ["run", str(path), "--dry-run"],
}


def ended(words: list[str]) -> tuple[int, str]:
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    return code, err.getvalue()


@pytest.fixture(autouse=True)
def silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="minitron")


def assert_clean(code: int, err: str) -> None:
    assert code in (0, 2), err[-2000:]
    assert "Traceback" not in err
    lines = err.splitlines()
    assert (code == 2) == bool(lines)
    assert all(line.startswith("minitron: ") for line in lines)
    assert max((len(line) for line in lines), default=0) <= MOST_MESSAGE_CHARS + len("minitron: ")


def test_hostile_files_never_make_a_command_print_a_traceback(tmp_path: Path) -> None:
    targets = {target.name: target for target in all_targets(tmp_path)}
    for name, words in COMMANDS.items():
        target = targets[name]
        codes = []
        for number in range(INPUTS):
            target.write(10_000 + number)
            code, err = ended(words(target.path))
            assert_clean(code, err)
            codes.append(code)
        target.clean()
        assert 2 in codes


def test_settings_and_shapes_on_the_command_line_are_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_tiny_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(recipe.read_text())
    for number in range(INPUTS):
        rng = random.Random(number)
        key = rng.choice(("distill", "search", "budget", "evaluate.task", "score.data"))
        section = values
        for part in key.split("."):
            section = section[part]
        text = hostile_json(section, rng).decode("utf-8", "replace")
        assert_clean(*ended(["run", str(recipe), "--dry-run", "--set", f"{key}={text}"]))
