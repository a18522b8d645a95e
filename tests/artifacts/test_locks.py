"""One process writes a folder at a time, and a killed one keeps nobody out."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minitron.artifacts.locks import lock_file, locked, require_unlocked_ranks

HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom minitron.artifacts.locks import locked\n"
    "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
)


def test_a_lock_is_held_against_others_until_its_process_is_killed(tmp_path: Path) -> None:
    target = tmp_path / "run" / "score"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="another process is writing .*score; wait for it"), locked(target):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert lock_file(target).exists()
    with locked(target):
        pass
    assert not lock_file(target).exists()


def test_ranks_have_locks_of_their_own(tmp_path: Path) -> None:
    with locked(tmp_path / "cache", rank=0), locked(tmp_path / "cache", rank=1):
        assert len(list(tmp_path.iterdir())) == 2
    assert not list(tmp_path.iterdir())


def test_a_rank_that_still_holds_its_lock_is_found_and_locks_of_dead_ones_are_removed(tmp_path: Path) -> None:
    target = tmp_path / "cut"
    lock_file(target, rank=3).touch()
    others = [lock_file(tmp_path / name, rank=1) for name in ("cut.more", "uncut")]
    for path in others:
        path.touch()
    require_unlocked_ranks(target)
    assert sorted(tmp_path.iterdir()) == sorted(others)
    with locked(target, rank=12), pytest.raises(ValueError, match="another process is writing .*cut; wait for it"):
        require_unlocked_ranks(target)
