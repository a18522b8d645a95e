"""Measures numbered things in several local processes, which share nothing but the results that they send back."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch

from minitron.errors import MinitronError
from minitron.progress import hide_progress

ResultT = TypeVar("ResultT")

# What a process makes once, of models and text: a number -> what is measured of it.
Begin = Callable[[], Callable[[int], ResultT]]


def measure_side_by_side(
    begin: Begin[ResultT], numbers: Sequence[int], processes: int
) -> Iterator[tuple[int, ResultT]]:
    """Yields (number, what is measured of it) as they come; every number is measured once, by one process.

    The threads of this process are shared out. Where the iteration ends early, the processes are ended at once; where
    this process is killed, each ends after the number that it is at.

    Args:
        begin: Called once in each process; it and its results are pickled.
        numbers: What to measure, begun in this order.
        processes: How many.

    Raises:
        MinitronError: What the measuring raises; or a process was killed, as by a system that runs out of memory.
    """
    context = multiprocessing.get_context("spawn")  # a fork would take over locked threads and the GPU
    left, threads = list(reversed(numbers)), max(1, torch.get_num_threads() // processes)
    running: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(min(processes, len(numbers))):
            here, there = context.Pipe()
            process: BaseProcess = context.Process(target=_work, args=(begin, threads, there), daemon=True)
            process.start()
            there.close()
            running[here] = process
            here.send(left.pop())
        while running:
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                found: tuple[int, ResultT] = _receive(connection, running[connection])
                if left:
                    with suppress(BrokenPipeError):  # it has just ended, which the next wait finds
                        connection.send(left.pop())
                else:
                    connection.close()
                    running.pop(connection).join()
                yield found
    finally:
        for one in running.values():
            one.terminate()
        for one in running.values():
            one.join()


def _receive(connection: Connection, process: BaseProcess) -> tuple[int, ResultT]:
    try:
        found: tuple[int, ResultT] | MinitronError = connection.recv()
    except (EOFError, ConnectionResetError) as error:
        process.join()
        if process.exitcode is not None and process.exitcode < 0:
            raise MinitronError(
                f"a process that measured candidates was ended by signal {-process.exitcode}, as systems do that run "
                "out of memory; set search.processes lower and call again to resume"
            ) from error
        raise RuntimeError(
            f"a process that measured candidates ended with code {process.exitcode}, its traceback is above"
        ) from error
    if isinstance(found, MinitronError):
        raise found
    return found


def _work(begin: Begin[ResultT], threads: int, connection: Connection) -> None:
    torch.set_num_threads(threads)
    hide_progress()
    try:
        measure = begin()
        while True:
            number = connection.recv()
            connection.send((number, measure(number)))
    except MinitronError as error:
        connection.send(error)
    except (EOFError, KeyboardInterrupt, BrokenPipeError):  # there is nobody left to measure for
        return
