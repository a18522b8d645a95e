"""An engine with one model in a process of its own, perhaps of another Python: JSON lines in and out."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import TypeAdapter

from minitron.errors import MinitronError
from minitron.evaluate.speed.settings import EngineName
from minitron.evaluate.speed.wave import Wave

_PROGRAM = "minitron.evaluate.speed.transformers_program"
_VLLM_PROGRAM = Path(__file__).with_name("vllm_program.py")
VLLM_PYTHON = "MINITRON_VLLM_PYTHON"


def engine_command(engine: EngineName, python: str | None = None) -> list[str]:
    """The words that start an engine's program.

    vLLM may live in an environment of its own, as it needs other versions of transformers: the Python that is given,
    else the environment variable's, else `vllm/bin/python` inside this environment, else this one.

    Raises:
        MinitronError: There is no such Python.
    """
    if engine == "transformers":
        return [python or sys.executable, "-m", _PROGRAM]
    beside = Path(sys.prefix) / "vllm" / "bin" / "python"
    found = python or os.environ.get(VLLM_PYTHON) or (str(beside) if beside.exists() else sys.executable)
    if not Path(found).is_file():
        raise MinitronError(f"vLLM's Python must be a program that is there, {found} is not")
    return [found, str(_VLLM_PROGRAM)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What an engine says when it has loaded its model.

    Attributes:
        engine: Its name and version.
        device: cpu, or what CUDA calls the GPU.
        threads: Threads that torch computes with on the CPU; vLLM leaves cores out for its own work.
    """

    engine: str
    device: str
    threads: int


class Worker:
    """A started engine, to be used in a `with`, which ends its process.

    Attributes:
        started: What it said when it had loaded the model.
    """

    def __init__(self, command: Sequence[str], settings: Mapping[str, object]) -> None:
        """Starts the engine and waits until it has loaded the model.

        Raises:
            MinitronError: It stops; the last lines that it wrote say why.
        """
        self._name = str(settings["model"])
        self._log = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        read, write = os.pipe()
        self._process = subprocess.Popen(
            [*command, str(write), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=self._log,  # what an engine prints is no result of ours
            stderr=self._log,
            pass_fds=[write],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},  # else what it printed first lies behind its last words
            text=True,
        )
        os.close(write)
        self._answers = os.fdopen(read, encoding="utf-8")
        try:
            self.started = TypeAdapter(Started).validate_json(self._answer())
        except BaseException:
            self.close()
            raise

    def run_wave(self, prompts: Sequence[Sequence[int]], output_tokens: int) -> Wave:
        """Runs one wave.

        Raises:
            MinitronError: The engine stopped.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"prompts": prompts, "output_tokens": output_tokens}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer tells
        return TypeAdapter(Wave).validate_json(self._answer())

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._answers.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> str:
        line = self._answers.readline()
        if line:
            return line
        self._process.wait()
        self._log.seek(0)
        written = [text.strip() for text in self._log.read().splitlines() if text.strip()]
        reason = written[-1] if written else f"exit code {self._process.returncode}"
        raise MinitronError(f"the engine must run {self._name}, it stopped: {reason}")
