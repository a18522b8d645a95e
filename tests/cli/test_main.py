"""Start-up of the command line, and its exit codes: 2 for the user's faults, 1 and a traceback for ours."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from minitron.api import fit as fit_module
from minitron.cli.main import COMMANDS, build_parser, main
from minitron.errors import CheckpointError, MinitronError
from tests.support.torch_free import run_commands


def _validation_error() -> ValidationError:
    try:
        TypeAdapter(int).validate_python("x")
    except ValidationError as error:
        return error
    raise AssertionError


def raise_in_fit(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def fail(*_args: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(fit_module, "choose_device", fail)
    return main(["fit", "model"])


@pytest.mark.parametrize(
    "error",
    [
        ValueError("operands could not be broadcast together"),
        KeyError("exact_match"),
        TypeError("unsupported operand"),
        RuntimeError("CUDA error"),
        AssertionError("never"),
        json.JSONDecodeError("Expecting value", "x", 0),
        UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"),
        _validation_error(),
        OSError("of no path"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_bug_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    assert raise_in_fit(monkeypatch, error) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" in printed.err
    assert type(error).__name__ in printed.err


@pytest.mark.parametrize("kind", [MinitronError, CheckpointError])
def test_each_line_of_a_users_fault_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type[MinitronError]
) -> None:
    assert raise_in_fit(monkeypatch, kind("one", "two")) == 2
    assert capsys.readouterr().err == "minitron: one\nminitron: two\n"


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "/closed"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/gone"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=lambda error: str(error.errno),
)
def test_what_the_environment_causes_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError
) -> None:
    assert raise_in_fit(monkeypatch, error) == 1
    assert capsys.readouterr().err == f"minitron: {error}\n"


def test_an_interrupt_says_how_to_resume(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert raise_in_fit(monkeypatch, KeyboardInterrupt()) == 130
    assert "run the command again to resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["cut"],
        ["fit"],
        ["fit", "model", "--context", "0"],
        ["fit", "model", "--weights", "int3"],
        ["score", "model", "--data", "text.txt", "--output", "new", "--seed", "-1"],
        ["prune", "model", "--scores", "scores"],
    ],
    ids=" ".join,
)
def test_a_command_line_that_does_not_parse_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "error:" in printed.err


def test_help_and_version_load_nothing_heavy() -> None:
    program = (
        "import sys, time\n"
        "from minitron.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as stopped:\n    assert stopped.code == 0\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'yaml', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert time.process_time() < 1, time.process_time()\n"
    )
    for argv in (["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)):
        ended = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout


def test_a_parser_of_all_commands_has_their_arguments() -> None:
    parser = build_parser()
    for command, needed in {"fit": ["model"], "eval": ["model", "--data", "text.txt"]}.items():
        assert parser.parse_args([command, *needed]).run is not None
    old = parser.parse_args(["eval", "model", "--data", "text.txt", "--blocks", "3"])
    assert old.sequences == 3


def test_fit_and_dry_runs_need_nothing_of_posix(recipe_path: Path) -> None:
    blocked = (
        "import os, sys\n"
        "for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios', 'torch', 'transformers'):\n"
        "    sys.modules[name] = None\n"
        "for name in ('posix_fadvise', 'POSIX_FADV_DONTNEED', 'sched_getaffinity', 'O_DIRECTORY', 'geteuid'):\n"
        "    vars(os).pop(name, None)\n"
    )
    commands = [
        ["fit", "teacher", "--gpu", "a10g", "--context", "64"],
        ["fit", "teacher/config.json", "--accounting", "vllm", "--json"],
        ["run", recipe_path.name, "--dry-run"],
    ]
    for ended in run_commands(commands, recipe_path.parent, before=blocked):
        assert ended.code == 0, ended.err
