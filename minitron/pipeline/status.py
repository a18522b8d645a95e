"""How far a run is: a file in the run folder, kept up to date while stages run, for whoever looks from elsewhere."""

import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from minitron.artifacts.json_files import read_record, write_json
from minitron.artifacts.locks import locked
from minitron.errors import ArtifactError, one_line
from minitron.progress import Step, listening

logger = logging.getLogger(__name__)

WRITE_EVERY_S = 5.0
MOST_SECONDS = 1e15  # beyond every step, token and duration
RunState = Literal["running", "finished", "failed", "interrupted"]
StageState = Literal["waiting", "running", "finished", "finished before", "failed", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStatus:
    """How far a stage is.

    Attributes:
        name: The stage.
        state: `finished before`: it was not run again.
        seconds: What it took in this run; None where it has not ended in it.
    """

    name: str
    state: StageState = "waiting"
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """How far a run is.

    Attributes:
        state: What became of it.
        stages: The stages that this run goes through, in order.
        step: The loop that the running stage is in; None between loops.
        error: First line of what ended it.
        host: Machine that it runs on.
        process: Its number there.
        started_at: In UTC, ISO 8601.
        updated_at: The same, of the last word from it.
    """

    state: RunState
    stages: tuple[StageStatus, ...]
    step: Step | None = None
    error: str | None = None
    host: str
    process: int
    started_at: str
    updated_at: str

    @property
    def silent_seconds(self) -> float:
        """Seconds since the last word."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.updated_at)).total_seconds()


class StatusFile:
    """Writes a run's status as it changes.

    A status that cannot be written never stops a run; a line says so once.

    Args:
        path: The file.
        stages: Names of the stages that the run goes through.
    """

    def __init__(self, path: Path, stages: Sequence[str]) -> None:
        now = _now()
        self._path, self._next, self._writes = path, 0.0, True
        self._status = RunStatus(
            state="running",
            stages=tuple(StageStatus(name=name) for name in stages),
            host=socket.gethostname(),
            process=os.getpid(),
            started_at=now,
            updated_at=now,
        )
        self._write()

    def begin(self, stage: str) -> None:
        """A stage begins."""
        self._set(stage, "running", None)

    def end(self, stage: str, *, skipped: bool, seconds: float) -> None:
        """A stage has ended well, or is skipped."""
        self._set(stage, "finished before" if skipped else "finished", None if skipped else seconds)

    def advance(self, step: Step) -> None:
        """A loop has advanced; written now and then."""
        self._status = replace(self._status, step=step)
        if time.monotonic() >= self._next:
            self._write()

    def finish(self) -> None:
        """All stages have ended well."""
        self._status = replace(self._status, state="finished", step=None)
        self._write()

    def stop(self, state: Literal["failed", "interrupted"], error: str | None = None) -> None:
        """The run ends before its last stage does."""
        stages = tuple(replace(one, state=state) if one.state == "running" else one for one in self._status.stages)
        self._status = replace(self._status, state=state, error=error, stages=stages)
        self._write()

    def _set(self, stage: str, state: StageState, seconds: float | None) -> None:
        stages = tuple(
            replace(one, state=state, seconds=seconds) if one.name == stage else one for one in self._status.stages
        )
        self._status = replace(self._status, stages=stages, step=None)
        self._write()

    def _write(self) -> None:
        self._next = time.monotonic() + WRITE_EVERY_S
        if not self._writes:
            return
        self._status = replace(self._status, updated_at=_now())
        try:
            write_json(self._path, asdict(self._status))
        except OSError as error:
            self._writes = False
            logger.warning("the status of this run is not written: %s", error)


@contextmanager
def watched(path: Path, stages: Sequence[str]) -> Iterator[StatusFile | None]:
    """Keeps a run's status up to date while the block goes through its stages.

    None where another process has the file: it is the one whose status is wanted.
    """
    with ExitStack() as stack:
        if not _taken(path, stack):
            yield None
            return
        status = StatusFile(path, stages)
        try:
            with listening(status.advance):
                yield status
        except (KeyboardInterrupt, GeneratorExit):
            status.stop("interrupted")
            raise
        except BaseException as error:
            lines = str(error).splitlines()
            status.stop("failed", lines[0] if lines else type(error).__name__)
            raise
        status.finish()


def read_status(path: Path) -> RunStatus:
    """The status of a run; one whose process is gone without a word is `interrupted`.

    Raises:
        ArtifactError: There is none, or it is not one.
    """
    status = _as_it_is_shown(read_record(path, RunStatus))
    _check(path, status)
    if status.state == "running" and status.host == socket.gethostname() and not _is_alive(status.process):
        stages = tuple(replace(one, state="interrupted") if one.state == "running" else one for one in status.stages)
        return replace(status, state="interrupted", stages=stages)
    return status


def _as_it_is_shown(status: RunStatus) -> RunStatus:
    """The status with its texts as lines that do not steer a terminal."""
    step = None if status.step is None else replace(status.step, description=one_line(status.step.description))
    error = None if status.error is None else one_line(status.error)
    return replace(status, host=one_line(status.host), error=error, step=step)


def _check(path: Path, status: RunStatus) -> None:
    """Refuses what no run writes: this is printed, names folders and asks the system for a process."""
    numbers = [one.seconds for one in status.stages if one.seconds is not None]
    step = status.step
    if step is not None:
        numbers += [each for each in (step.completed, step.total, step.seconds_left) if each is not None]
    try:
        dated = datetime.fromisoformat(status.updated_at).tzinfo is not None
    except ValueError:
        dated = False
    names = (one.name for one in status.stages)
    if (
        not dated
        or not all(abs(number) <= MOST_SECONDS for number in numbers)
        or not 0 < status.process < 2**31
        or not all(re.fullmatch(r"[a-z_]{1,40}", name) for name in names)
    ):
        raise ArtifactError(f"{path} must be as a run writes it: dates with their zone, numbers, names of stages")


def _taken(path: Path, stack: ExitStack) -> bool:
    """Whether the file's lock could be had, which the stack then holds."""
    try:
        stack.enter_context(locked(path))
    except (ArtifactError, OSError):  # another process is at it, or the folder cannot be written
        return False
    return True


def _is_alive(process: int) -> bool:
    if os.name != "posix":
        return True  # signals would end it there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
