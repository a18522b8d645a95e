"""Runs of the tiny recipe that tests copy and go on from: made once, whole, by every stage."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from minitron.pipeline.runner import run_pipeline
from minitron.pipeline.stage_list import STAGE_NAMES
from minitron.recipe.load import load_recipe
from tests.support.recipes import TWO_STEPS, write_tiny_recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeRun:
    """A run of a recipe from its first stage to its last.

    Attributes:
        folder: The run folder; not to be written to.
        recipe_path: The recipe. One of the same content elsewhere gives the same run.
        skipped: Of every stage that ran, whether it was skipped.
    """

    folder: Path
    recipe_path: Path
    skipped: dict[str, bool]

    def copy_to(self, folder: Path, *, last: str) -> Path:
        """A copy of it as it was after a stage."""
        for name in STAGE_NAMES[: STAGE_NAMES.index(last) + 1]:
            if (self.folder / name).exists():
                shutil.copytree(self.folder / name, folder / name)
        return folder


def _whole(folder: Path, *overrides: str) -> WholeRun:
    path = write_tiny_recipe(folder)
    outcomes = run_pipeline(load_recipe(path, overrides), folder / "run")
    return WholeRun(folder=folder / "run", recipe_path=path, skipped={each.name: each.skipped for each in outcomes})


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    return _whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    return _whole(tmp_path_factory.mktemp("two-steps"), *TWO_STEPS)


@pytest.fixture
def begun(whole_run: WholeRun, tmp_path: Path) -> Callable[[str, str], Path]:
    """Copies the run as it was after a stage into a folder beside the test's recipe: `begun("run", "prune")`."""
    return lambda name, last: whole_run.copy_to(tmp_path / name, last=last)
