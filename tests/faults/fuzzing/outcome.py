"""Runs one reader on one input and says what came out: a value, a clean error, or a fault of the reader."""

import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType

from minitron.errors import MinitronError

# Stated here again: a test that asks the code for its bounds holds nothing.
MOST_MESSAGE_CHARS = 500  # of a line
MOST_MESSAGE_LINES = 50
LIMIT_S = 5.0  # of CPU time, since other processes may be running
WAIT_S = 60.0  # of any time: what waits takes no CPU time
MEMORY_BYTES = 2**30  # more than a process has when its reader begins


class HangError(BaseException):
    """A reader took longer than it may. No reader catches it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a reader made of an input.

    Attributes:
        kind: `read`, or the class of the error.
        fault: What is wrong with how it ended; empty where nothing is.
        seconds: CPU time that it took.
    """

    kind: str
    fault: str
    seconds: float


def outcome_of(read: Callable[[], object]) -> Outcome:
    """Runs a reader under an alarm."""
    started = time.process_time()
    kind, fault = _ended(read)
    seconds = time.process_time() - started
    if not fault and seconds > LIMIT_S:
        fault = f"took {seconds:.0f} s"
    return Outcome(kind=kind, fault=fault, seconds=seconds)


def message_fault(message: str) -> str:
    """What is wrong with an error's message; empty where nothing is."""
    lines = message.split("\n")
    if not message.strip():
        return "an empty message"
    if len(lines) > MOST_MESSAGE_LINES:
        return f"a message of {len(lines)} lines"
    for line in lines:
        if len(line) > MOST_MESSAGE_CHARS:
            return f"a line of {len(line)} characters: {line[:100]!r}"
        if not line.isprintable():
            return f"a line that cannot be printed: {line[:100]!r}"
    return ""


@contextmanager
def bounded_memory(more_bytes: int = MEMORY_BYTES) -> Iterator[None]:
    """Lets the process have so many more bytes of address space than now; what asks for more gets a MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _ended(read: Callable[[], object]) -> tuple[str, str]:
    try:
        with _alarm():
            read()
    except KeyboardInterrupt:
        raise
    except MinitronError as error:
        return type(error).__name__, message_fault(str(error))
    except HangError:
        return "hang", f"took more than {LIMIT_S:.0f} s of CPU time, or waits"
    except BaseException as error:  # whatever else: Rust's panics are no Exception
        name = type(error).__name__
        shown = "" if isinstance(error, RecursionError | MemoryError) else str(error)[:200]
        return name, f"{name} at {_raised_at(error.__traceback__)}: {shown!r}"
    return "read", ""


def _raised_at(trace: TracebackType | None) -> str:
    place = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "minitron" in file or not place:
            place = f"{file.rpartition('minitron/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise HangError

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, LIMIT_S), signal.SIGALRM: (signal.ITIMER_REAL, WAIT_S)}
    before = {number: signal.signal(number, ring) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
