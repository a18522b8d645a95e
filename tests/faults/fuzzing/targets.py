"""Everything that is fuzzed."""

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

from tests.faults.fuzzing.model_files import model_targets
from tests.faults.fuzzing.outcome import Outcome, outcome_of
from tests.faults.fuzzing.run_files import run_targets
from tests.faults.fuzzing.target import Target
from tests.faults.fuzzing.text_files import text_targets


def all_targets(folder: Path) -> Iterator[Target]:
    """Every target, its files in a folder of its kind."""
    yield from model_targets(folder / "model")
    yield from run_targets(folder / "run")
    yield from text_targets(folder / "text")


def outcomes(target: Target, numbers: range) -> Iterator[tuple[int, Outcome]]:
    """What the inputs of some numbers come to."""
    with chdir(target.path.parent):
        for number in numbers:
            target.write(number)
            yield number, outcome_of(target.read)
            target.clean()
