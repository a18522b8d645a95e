"""Every command and every Python block of README and guides runs, in order, as after `make demo`."""

import configparser
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from minitron.cli.main import build_parser, main
from tests.support.pages import PAGES, ROOT, Block, blocks
from tests.support.quickstart import write_small_quickstart

# What is made smaller before it runs: text of commands and Python blocks -> text that is run.
SMALLER = (
    (r"--samples \d+", "--samples 4"),
    (r"--seq-len \d+", "--seq-len 32"),
    (r"--max-new-tokens \d+", "--max-new-tokens 4"),
    (r"distill\.tokens=\d+", "distill.tokens=512"),
    (r"tournament\.tokens=\[[\d,]+\]", "tournament.tokens=[128,256]"),
    (r'"samples": \d+', '"samples": 4'),
    (r'"seq_len": \d+', '"seq_len": 32'),
    (r"max_new_tokens=\d+", "max_new_tokens=4"),
    (r"--repetitions \d+", "--repetitions 1 --output-tokens 4"),
)
# What cannot run here, by its first words; `minitron` inside it must parse all the same.
ELSEWHERE = {
    "make": "sets up an environment",
    "pip install": "sets up an environment",
    ".": "is the shell's",
    ".venv/bin/python -m pytest": "is this test suite",
    "torchrun": "takes several GPUs",
    "accelerate launch": "takes several GPUs",
    "python benchmarks/": "takes half an hour",
    "python docs/": "takes a whole run",
    "minitron bench examples/quickstart/teacher runs/quickstart/distill/checkpoint --engine vllm": "takes vLLM",
    "hf download": "takes a network",
    "minitron forecast examples/quickstart/recipe.yaml --kl": "takes a whole distillation",
    "minitron run examples/recipes/": "takes weights, but for --dry-run",
    "minitron run examples/smollm2/": "takes packages",
    "minitron distill examples/recipes/": "takes weights",
}
RUN = [
    path for path in PAGES if any(block.language in ("bash", "console", "python") for block in blocks(path.read_text()))
]
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def after_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout after `make demo`. Figures, which have tests of their own, take no time here."""
    root = tmp_path_factory.mktemp("checkout")
    write_small_quickstart(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).write_bytes(b"drawn elsewhere"))
        patch.chdir(root)
        assert main(["run", "examples/quickstart/recipe.yaml"]) == 0
        yield root


@pytest.mark.parametrize("path", RUN, ids=name_of)
def test_what_a_page_says_to_type_runs(
    path: Path,
    after_demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(after_demo, checkout, symlinks=True)
    monkeypatch.chdir(checkout)
    names: dict[str, Any] = {}
    for block in blocks(path.read_text(encoding="utf-8")):
        if block.language == "python":
            exec(compile(smaller(block.text), name_of(path), "exec"), names)
        for command, expected in commands(block):
            capsys.readouterr()
            run(command)
            if expected:
                assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == expected


def test_no_command_hides_in_an_indented_block() -> None:
    hidden = re.compile(r"^ {4,}(?:minitron|torchrun|accelerate|make|python) ", re.MULTILINE)
    assert not [
        name_of(path) for path in PAGES if hidden.search(re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL))
    ]


@pytest.mark.parametrize(
    "command",
    [
        "minitron gone",
        "minitron fit --gone config.json",
        "torchrun --nproc-per-node 8 -m minitron distill --gone recipe.yaml",
        "make gone",
        "python benchmarks/gone.py",
        "pip install '.[gone]'",
        "gone",
    ],
)
def test_a_command_that_would_fail_is_found(command: str) -> None:
    with pytest.raises((AssertionError, SystemExit)):
        run(command)


def smaller(text: str) -> str:
    for pattern, replacement in SMALLER:
        text = re.sub(pattern, replacement, text)
    return text


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """Each command of a block with the output that is shown for it, if any."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "bash":
        return [(line, []) for line in lines if line.strip() and not line.startswith("#")]
    found: list[tuple[str, list[str]]] = []
    for line in lines if block.language == "console" else ():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line.rstrip())
    return found


def run(command: str) -> None:
    """Runs a command in this process, or checks what can be checked of one that runs elsewhere."""
    words = shlex.split(command, comments=True)
    begins = next(
        (begin for begin in ELSEWHERE if f"{' '.join(words)} ".startswith(begin if begin[-1] == "/" else f"{begin} ")),
        None,
    )
    if begins is None or "--dry-run" in words:
        assert words[0] == "minitron", f"neither minitron nor listed as run elsewhere: {command}"
        assert main(shlex.split(smaller(command), comments=True)[1:]) == 0
    elif words[0] == "make":
        assert set(words[1:]) <= TARGETS
    elif words[0] == "pip":
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        assert set(re.findall(r"\[(\w+)\]", command)) <= set(setup["options.extras_require"])
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    elif "minitron" in words:
        build_parser().parse_args(words[words.index("minitron") + 1 :])
