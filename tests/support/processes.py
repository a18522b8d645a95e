"""Processes that tests start: forked from one that has imported torch once, so that each of them costs no import."""

import atexit
import functools
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

_KIND = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_CONTEXT: Any = multiprocessing.get_context(_KIND)


def start(
    function: Callable[..., Any], *args: Any, environment: dict[str, str] | None = None, log: Path | None = None
) -> BaseProcess:
    """Starts a process that calls a function of a module; it ends with what `sys.exit` would be given.

    Args:
        function: To be called.
        args: Its arguments.
        environment: Further environment variables.
        log: File that takes what the process prints, `.err` beside it what it reports; both are lost without one.
    """
    if _KIND == "forkserver":
        _start_server()
    process: BaseProcess = _CONTEXT.Process(target=_call, args=(function, args, environment or {}, log), daemon=True)
    process.start()
    return process


def run(function: Callable[..., Any], *args: Any, log: Path | None = None, timeout_s: float = 900) -> int:
    """Calls a function in a process of its own and gives the exit code."""
    process = start(function, *args, log=log)
    return _join([process], timeout_s)[0]


def start_ranks(
    function: Callable[..., Any], *args: Any, world_size: int = 2, log: Path | None = None
) -> list[BaseProcess]:
    """Starts every process of a launch, as torchrun does; each calls a function.

    Args:
        function: To be called.
        args: Its arguments.
        world_size: Number of processes.
        log: Folder that takes what each rank prints, as `rank-0.log`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sizes = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    processes = []
    for rank in range(world_size):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        file = log / f"rank-{rank}.log" if log else None
        processes.append(start(function, *args, environment=together | sizes | own, log=file))
    return processes


def run_ranks(
    function: Callable[..., Any], *args: Any, world_size: int = 2, log: Path | None = None, timeout_s: float = 900
) -> list[int]:
    """Calls a function in every process of a launch, as torchrun does, and gives their exit codes.

    As soon as one fails the others are killed, as they are after `timeout_s` seconds.
    """
    return _join(start_ranks(function, *args, world_size=world_size, log=log), timeout_s)


def _join(processes: list[BaseProcess], timeout_s: float) -> list[int]:
    until = time.monotonic() + timeout_s
    while any(process.is_alive() for process in processes):
        failed = any(process.exitcode for process in processes)
        if failed or time.monotonic() > until:
            for process in processes:
                process.kill()
        time.sleep(0.005)
    for process in processes:
        process.join()
    return [process.exitcode or 0 for process in processes]


@functools.cache
def _start_server() -> None:
    """The process to fork from finds the tests' modules by the environment alone."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    _CONTEXT.set_forkserver_preload(["tests.support.warm"])
    forkserver.ensure_running()
    # Waited for, so that its processor time counts as that of the tests.
    atexit.register(forkserver._forkserver._stop)  # type: ignore[attr-defined]
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def _call(function: Callable[..., Any], args: tuple[Any, ...], environment: dict[str, str], log: Path | None) -> None:
    os.environ.update(environment)
    with open(log or os.devnull, "w") as out, open(log.with_suffix(".err") if log else os.devnull, "w") as errors:
        os.dup2(out.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        answer = function(*args)
        sys.exit(answer)
