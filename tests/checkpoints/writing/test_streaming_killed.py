"""Pruning killed by the system at more than twenty random moments ends with the same bytes."""

import random
import shutil
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from minitron.checkpoints.writing.journal import CONFIG_FILE
from tests.checkpoints.writing import prune_program
from tests.support import processes
from tests.support.folders import contents, opens
from tests.support.paths import TEACHER

pytestmark = [pytest.mark.slow, pytest.mark.processes]
KILLS = 24
# Every so many kills wait until all is written and being checked.
LATE_EVERY = 8


def start(source: Path, output: Path) -> BaseProcess:
    """The program, at the moment when it begins to prune."""
    log = output.with_name("log")
    log.write_text("")
    process = processes.start(prune_program.main, source, output, log=log)
    while "started" not in log.read_text():
        assert process.is_alive(), log.with_suffix(".err").read_text()
        time.sleep(0.001)
    return process


def seconds_of_writing(source: Path, output: Path) -> float:
    """From the program's start of pruning until the last file has its name; the check that follows is not counted."""
    process = start(source, output)
    started = time.monotonic()
    await_last_file(process, output)
    seconds = time.monotonic() - started
    process.join()
    assert process.exitcode == 0
    return seconds


def await_last_file(process: BaseProcess, output: Path) -> None:
    """Waits until the last file has its name."""
    while not (output / CONFIG_FILE).exists():
        assert process.exitcode in (None, 0)
        time.sleep(0.001)


def test_kills_change_no_byte_and_nothing_unfinished_opens(tmp_path: Path) -> None:
    before = contents(TEACHER)
    seconds = seconds_of_writing(TEACHER, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    rng, output = random.Random(0), tmp_path / "output"
    early = 0
    for kill in range(1, KILLS + 1):
        process = start(TEACHER, output)
        if kill % LATE_EVERY == 0:
            await_last_file(process, output)
        else:
            time.sleep(rng.uniform(0, 0.7) * seconds)
        process.kill()
        process.join()
        if opens(output):
            assert contents(output).items() >= whole.items()
            shutil.rmtree(output)
        else:
            assert kill % LATE_EVERY
            early += 1
    assert early
    process = start(TEACHER, output)
    process.join()
    assert process.exitcode == 0
    assert contents(output) == whole
    assert contents(TEACHER) == before
