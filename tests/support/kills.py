"""Killing a command by SIGKILL, again and again, as it goes on from where it was killed before."""

import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from minitron.cli.main import main
from tests.support import processes


def kill_at(
    words: Sequence[str], targets: Sequence[int], progress: Callable[[Path], int], folder: Path, *, rng: random.Random
) -> list[int]:
    """Starts a command for each target, and kills it up to a tenth of a second after its progress has reached that.

    Args:
        words: The command's words.
        targets: Progress at which it is killed, ascending.
        progress: How far the work in a folder has come.
        folder: That folder.
        rng: Where chance comes from.

    Returns:
        The progress after each kill.
    """
    found = []
    for target in targets:
        process = processes.start(main, list(words))
        while progress(folder) < target:
            assert process.exitcode is None, "ended before it could be killed"
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "ended before it could be killed"
        found.append(progress(folder))
    return found
