"""Several processes write the files of a cut together, and what they had written when one died is taken over."""

from pathlib import Path

import pytest

from minitron.checkpoints.writing.journal import CONFIG_FILE, JOURNAL_FILE, RECORD, Journal, resumable
from minitron.distributed import Ranks
from tests.checkpoints.writing import prune_program
from tests.support.folders import contents
from tests.support.paths import TEACHER
from tests.support.processes import run_ranks

FILES = ("first", "second", "third")


@pytest.mark.processes
def test_two_processes_write_the_bytes_of_one_and_each_writes_some(tmp_path: Path) -> None:
    prune_program.main(TEACHER, tmp_path / "one")
    shards = {path.name for path in (tmp_path / "one").glob("*.safetensors")}
    for folder in ("log", "log-stopped"):
        (tmp_path / folder).mkdir()
    codes = run_ranks(prune_program.prune_together, TEACHER, tmp_path / "two", None, log=tmp_path / "log")
    assert codes == [0, 0], (tmp_path / "log" / "rank-0.err").read_text()
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    others = names_in(tmp_path / "log" / "rank-1.log")
    assert others < shards
    assert len(others) == len(shards) // 2 > 2

    stopped = tmp_path / "stopped"
    codes = run_ranks(prune_program.prune_together, TEACHER, stopped, 2, log=tmp_path / "log-stopped")
    assert codes[1] != 0
    assert not (stopped / CONFIG_FILE).exists()
    kept = names_in(tmp_path / "log-stopped" / "rank-1.log")
    assert len(kept) >= 2  # another thread may have been at a third one
    before = {name: (stopped / name).stat().st_mtime_ns for name in kept}
    prune_program.main(TEACHER, stopped)
    assert {name: (stopped / name).stat().st_mtime_ns for name in kept} == before
    assert contents(stopped) == contents(tmp_path / "one")


def names_in(log: Path) -> set[str]:
    return {line for line in log.read_text().splitlines() if line.endswith(".safetensors")}


class _KilledError(Exception):
    pass


def stop(folder: Path, inputs_hash: str = "same") -> None:
    """Leaves the folder of two processes, the second of which has recorded a file, and a third in the midst of it."""
    with pytest.raises(_KilledError), resumable(folder, inputs_hash=inputs_hash, files=FILES) as journal:
        second = Journal(folder, inputs_hash, FILES, 1)
        for name, own in (("first", journal), ("third", second)):
            (folder / name).write_text(name)
            own.record(name)
        (folder / f"{RECORD}-2.json.partial").write_text("{")
        raise _KilledError


def test_journals_of_all_processes_are_taken_over_and_none_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "output"
    stop(folder)
    with resumable(folder, inputs_hash="same", files=FILES, ranks=Ranks.alone()) as journal:
        assert [journal.has(name, len(name)) for name in FILES] == [True, False, True]
        assert [path.name for path in sorted(folder.iterdir())] == ["first", JOURNAL_FILE, "third"]
    assert [path.name for path in sorted(folder.iterdir())] == ["first", "third"]


def test_journals_of_other_inputs_are_cleared_with_their_files(tmp_path: Path) -> None:
    folder = tmp_path / "output"
    stop(folder)
    with resumable(folder, inputs_hash="other", files=FILES) as journal:
        assert [path.name for path in folder.iterdir()] == [JOURNAL_FILE]
        assert not any(journal.has(name, len(name)) for name in FILES)


def test_clearing_forgets_the_files_of_all_processes(tmp_path: Path) -> None:
    folder = tmp_path / "output"
    with resumable(folder, inputs_hash="same", files=FILES) as journal:
        (folder / "third").write_text("third")
        Journal(folder, "same", FILES, 1).record("third")
        journal.clear()
        assert not list(folder.glob(f"{RECORD}-*"))
        again = Journal(folder, "same", FILES)
        assert again.load()
        assert not again.has("third", len("third"))
