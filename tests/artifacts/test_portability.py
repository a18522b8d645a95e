"""Without the system calls that macOS or Windows lack, everything that needs none of them works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minitron.artifacts.artifact import write_artifact
from minitron.artifacts.header import read_header
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.prune.checkpoint import prune_checkpoint
from tests.support.plans import make_plan

LACKING = ("posix_fadvise", "posix_fallocate", "O_DIRECTORY", "preadv", "pwrite", "pread", "fork", "sched_getaffinity")


def test_fit_and_artifacts_need_no_unix(tmp_path: Path, tiny_checkpoint: Path) -> None:
    program = (
        "import os, sys\n"
        f"for name in {LACKING}:\n    hasattr(os, name) and delattr(os, name)\n"
        "for name in ('fcntl', 'resource', 'pwd', 'grp'):\n    sys.modules[name] = None\n"
        "import minitron.artifacts.artifact, minitron.artifacts.hashes, minitron.checkpoints.writing.shard_writer\n"
        "from minitron.cli.main import main\n"
        "sys.exit(main(['fit', sys.argv[1]]))\n"
    )
    command = [sys.executable, "-c", program, str(tiny_checkpoint)]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert answer.returncode == 0, answer.stderr
    assert "fits" in answer.stdout


def test_an_artifact_and_a_cut_are_the_same_where_macos_lacks_calls(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_checkpoint(tiny_checkpoint)
    plan = make_plan(source.shape)
    prune_checkpoint(source, plan, tmp_path / "here", check=False)
    monkeypatch.delattr(os, "posix_fadvise")
    monkeypatch.delattr(os, "O_DIRECTORY")
    prune_checkpoint(source, plan, tmp_path / "there", check=False)
    here, there = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("here", "there"))
    assert here == there
    with write_artifact(tmp_path / "a", stage="s", inputs={}, seed=0) as output:
        (output / "file.txt").write_text("x")
    assert read_header(tmp_path / "a") is not None
