"""Run in every process of a launch: the command line, with a fault planted in some process of it."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from minitron.api import prune
from minitron.checkpoints.checkpoint import Checkpoint
from minitron.cli import main as cli
from minitron.distributed import Ranks
from minitron.errors import NotFiniteError
from minitron.pipeline import evaluation
from minitron.pipeline.stages import report
from minitron.runtime import saving


def command(words: Sequence[str]) -> int:
    """The command line as it is."""
    return cli.main(words)


def with_a_report_that_fails(words: Sequence[str]) -> int:
    """What the first process does alone is refused."""
    report.read_training_record = _refuse  # type: ignore[assignment]
    return cli.main(words)


def with_a_report_that_has_a_bug(words: Sequence[str]) -> int:
    """What the first process does alone ends with a bug."""
    report.read_training_record = _divide  # type: ignore[assignment]
    return cli.main(words)


def with_a_second_process_that_fails(words: Sequence[str]) -> int:
    """The other process fails in what both do together, while the first one waits for it."""
    _refuse_in_second(evaluation, "evaluate_text", "the loss must be finite")
    return cli.main(words)


def with_a_second_process_that_cannot_cut(words: Sequence[str]) -> int:
    """The other process fails in a cut that both make, while the first one waits for it."""
    _refuse_in_second(prune, "prune_to", "a weight must be finite")
    return cli.main(words)


def with_a_second_process_that_reads_late(words: Sequence[str]) -> int:
    """The other process takes its time to open what both have written."""
    real = saving.open_checkpoint

    def open_late(folder: Path) -> Checkpoint:
        if folder.parent.name.endswith(".partial") and os.environ["RANK"] == "1":
            time.sleep(1)
        return real(folder)

    saving.open_checkpoint = open_late  # type: ignore[assignment]
    return cli.main(words)


def _refuse_in_second(module: ModuleType, name: str, fault: str) -> None:
    real = getattr(module, name)

    def fail_in_one(*given: Any, ranks: Ranks, **options: Any) -> Any:
        if ranks.rank == 1:
            raise NotFiniteError(fault)
        return real(*given, ranks=ranks, **options)

    setattr(module, name, fail_in_one)


def _refuse(*_given: object) -> object:
    raise NotFiniteError("the record must be finite")


def _divide(*_given: object) -> object:
    return 1 // 0
