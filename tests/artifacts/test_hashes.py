"""Hashes of files: right, and each byte of a large file read once, whatever process asks."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minitron.artifacts import hashes
from minitron.artifacts.hashes import cache_file, file_hash
from minitron.artifacts.shared import hash_once
from minitron.distributed import Ranks

LONG_AGO = 1_000_000_000


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every range that is read to be hashed; the cache file lies in the test's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "SETTLED_S", -1e9)  # the times of change in a test are now
    found: list[int] = []
    digest = hashes._digest

    def count(path: Path, start: int, nbytes: int) -> str:
        found.append(nbytes)
        return digest(path, start, nbytes)

    monkeypatch.setattr(hashes, "_digest", count)
    forget(monkeypatch)
    return found


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process begins."""
    monkeypatch.setattr(hashes, "_known", {})


def make_file(path: Path, *, nbytes: int = hashes.KEPT_BYTES, fill: bytes = b"a") -> Path:
    path.write_bytes(fill * nbytes)
    return path


def test_the_hash_is_that_of_the_content_or_of_a_range(tmp_path: Path, counted: list[int]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert file_hash(path) == hashlib.sha256(b"0123456789").hexdigest()
    assert file_hash(path, start=2, nbytes=3) == hashlib.sha256(b"234").hexdigest()
    with pytest.raises(ValueError, match="data file not found"):
        file_hash(tmp_path / "gone")


def test_a_second_process_reads_none_of_a_large_files_bytes(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_file(tmp_path / "weights")
    first = file_hash(path)
    assert counted == [hashes.KEPT_BYTES]
    forget(monkeypatch)
    assert file_hash(path) == first
    assert counted == [hashes.KEPT_BYTES]
    assert cache_file().is_relative_to(tmp_path / "cache")


def test_a_changed_file_is_hashed_anew(tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_file(tmp_path / "weights")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    first = file_hash(path)
    make_file(path, fill=b"b")
    assert file_hash(path) != first
    other = make_file(tmp_path / "other", fill=b"c")
    os.utime(other, ns=(LONG_AGO, LONG_AGO))  # of the same size and time, but another file
    other.replace(path)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    forget(monkeypatch)
    assert file_hash(path) == hashlib.sha256(b"c" * hashes.KEPT_BYTES).hexdigest()
    assert len(counted) == 3


def test_small_files_and_those_that_changed_just_now_are_not_kept(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    file_hash(make_file(tmp_path / "small", nbytes=10))
    monkeypatch.setattr(hashes, "SETTLED_S", 3600.0)
    file_hash(make_file(tmp_path / "new"))
    assert not cache_file().exists()


def test_a_cache_that_cannot_be_used_costs_time_alone(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_file(tmp_path / "weights")
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text("[")
    first = file_hash(path)
    forget(monkeypatch)
    assert file_hash(path) == first
    assert len(counted) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(make_file(tmp_path / "not-a-folder", nbytes=1)))
    forget(monkeypatch)
    assert file_hash(path) == first


def test_other_ranks_take_the_first_ones_hashes(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sent = make_file(tmp_path / "text", nbytes=100), []
    first, second = Ranks(), Ranks()
    second.rank, second.world_size = 1, 2
    monkeypatch.setattr(first, "broadcast", lambda value: sent.append(value))
    monkeypatch.setattr(second, "broadcast", lambda _value: sent[0])
    expected = hash_once(first, lambda: file_hash(path))
    forget(monkeypatch)
    assert hash_once(second, lambda: file_hash(path)) == expected
    assert counted == [100]


def test_no_rank_waits_for_a_first_one_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ranks, sent = Ranks(), []
    monkeypatch.setattr(ranks, "broadcast", lambda value: sent.append(value))
    with pytest.raises(ValueError, match="data file not found"):
        hash_once(ranks, lambda: file_hash(tmp_path / "gone"))
    assert len(sent) == 1


def test_a_new_process_finds_what_another_one_kept(tmp_path: Path) -> None:
    path = make_file(tmp_path / "weights")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    program = (
        "import sys\nfrom pathlib import Path\nfrom minitron.artifacts import hashes\n"
        "hashes.SETTLED_S = -1e9\nread, digest = [], hashes._digest\n"
        "hashes._digest = lambda path, start, nbytes: read.append(nbytes) or digest(path, start, nbytes)\n"
        "print(hashes.file_hash(Path(sys.argv[1])), sum(read))\n"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    found = [
        subprocess.run(
            [sys.executable, "-c", program, str(path)], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert [int(read) for _, read in found] == [hashes.KEPT_BYTES, 0]
    assert found[0][0] == found[1][0]
