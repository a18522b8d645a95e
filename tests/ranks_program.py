"""Run in every process of a launch: works that give, and works that fail, and what each process then has."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from minitron.distributed import Ranks
from minitron.errors import DataError
from minitron.failures import failing_together


def main(output: Path) -> None:
    """Writes what each way gives this process."""
    ranks = Ranks()
    assert ranks.world_size == int(os.environ["WORLD_SIZE"]) == 2
    found = {
        "on_main": _outcome(lambda: ranks.on_main(lambda: f"of {ranks.rank}")),
        "on_main, fault": _outcome(lambda: ranks.on_main(lambda: _refuse("no text"))),
        "on_main, bug": _outcome(lambda: ranks.on_main(lambda: str(ranks.rank // 0))),
        "each": _outcome(lambda: ",".join(ranks.each(lambda: f"of {ranks.rank}"))),
        "each, fault": _outcome(lambda: ",".join(ranks.each(lambda: _fail_in(1, ranks, "no text")))),
        "each, bug": _outcome(lambda: ",".join(ranks.each(lambda: str(1 // (1 - ranks.rank))))),
    }
    ranks.barrier()  # what failed leaves the processes in step
    (output / f"{ranks.rank}.json").write_text(json.dumps(found))


def fail_amid_a_collective(output: Path, failing: int, kind: str) -> None:
    """One process fails while the other waits for it; writes what each raises."""
    ranks = Ranks()

    def together() -> str:
        with failing_together(ranks):
            if ranks.rank == failing:
                return _refuse("no text") if kind == "fault" else str(ranks.rank // 0)
            return str(float(ranks.sum(torch.ones(1))))

    (output / f"{ranks.rank}.json").write_text(json.dumps(_outcome(together)))
    # The first process holds the store here, which under torchrun the agent does.
    _await(output / f"{1 - ranks.rank}.json")


def fail_in_work_of_the_first_alone(output: Path) -> None:
    """The first process fails in what it does alone and leaves last; writes what each raises."""
    ranks = Ranks()
    own, other = (output / f"{rank}.json" for rank in (ranks.rank, 1 - ranks.rank))

    def divide() -> str:
        with failing_together(ranks):
            try:
                return ranks.on_main(lambda: str(1 // 0))
            except ZeroDivisionError:
                _await(other)
                raise

    own.write_text(json.dumps(_outcome(divide)))
    _await(other)


def _await(path: Path) -> None:
    while not path.is_file():
        time.sleep(0.01)


def _outcome(way: Callable[[], str]) -> list[str]:
    try:
        return ["", way()]
    except Exception as error:
        return [type(error).__name__, str(error)]


def _fail_in(rank: int, ranks: Ranks, fault: str) -> str:
    return _refuse(fault) if ranks.rank == rank else "well"


def _refuse(fault: str) -> str:
    raise DataError(fault)
