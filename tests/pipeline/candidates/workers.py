"""What the processes of a test measure."""

import os
import signal
from collections.abc import Callable

from minitron.errors import DataError


def squares() -> Callable[[int], tuple[int, int]]:
    """A number -> its square and the process that computed it."""
    return lambda number: (number**2, os.getpid())


def refuses_three() -> Callable[[int], int]:
    """A number -> itself, but for one that a user's fault is found in."""

    def measure(number: int) -> int:
        if number == 3:
            raise DataError("three cannot be used")
        return number

    return measure


def fails() -> Callable[[int], int]:
    """A bug."""
    return lambda number: number // 0


def is_killed() -> Callable[[int], int]:
    """The system ends the process while it measures."""

    def measure(number: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return number

    return measure


def asks_for_too_much() -> Callable[[int], int]:
    """A fault that is found before anything is measured."""
    raise DataError("there is no text")
