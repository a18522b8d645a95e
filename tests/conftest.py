"""Fixtures, and how the suite runs: without network, on one thread a worker, and each module's tests in one worker.

Nothing heavy is imported here at the top: the process that hands tests to workers needs none of it.
"""

from __future__ import annotations

import gc
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from minitron.models.shape import HybridShape

settings.register_profile("random", deadline=60_000)  # milliseconds; an example takes a second at most
settings.register_profile("ci", deadline=60_000, derandomize=True, database=None, print_blob=True)
# Failures as they are found, not in their smallest form: for work on a family whose every example fails.
settings.register_profile("unshrunk", deadline=60_000, phases=(Phase.explicit, Phase.reuse, Phase.generate))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "random"))


def pytest_configure(config: pytest.Config) -> None:
    """Prepares torch in each process that runs tests."""
    if config.getoption("numprocesses", None):
        return
    import torch

    # Small products on two cores: one thread is as fast and does not fight with other processes.
    torch.set_num_threads(1)
    # Read as Triton is imported, which transformers does: without a GPU its interpreter runs kernels, on CPU tensors.
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a module share a worker, so that its fixtures are made once; the longest groups come first."""

    def group(item: pytest.Item) -> str:
        return "processes" if item.get_closest_marker("processes") else item.nodeid.partition("::")[0]

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    first = ("processes", "tests/pipeline", "tests/examples", "tests/prune", "tests/distill")
    items.sort(key=lambda item: next((n for n, name in enumerate(first) if group(item).startswith(name)), len(first)))


@pytest.fixture(autouse=True, scope="module")
def frozen_modules() -> Iterator[None]:
    """What was imported is out of the garbage collector's sight: a full collection is 50 times as fast."""
    before = len(sys.modules)
    if gc.get_freeze_count() == 0:
        gc.collect()
        gc.freeze()
    yield
    if len(sys.modules) > before + 300:
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def blank_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures have their size and nothing on them, but in tests marked `figures`."""
    if request.node.get_closest_marker("figures"):
        return

    def save_blank(figure: Any, path: Any, *, dpi: float | None = None, format: str | None = None, **_: Any) -> None:
        from PIL import Image

        width, height = (int(inches * (dpi or figure.dpi)) for inches in figure.get_size_inches())
        Image.new("L", (width, height)).save(path, format=format)

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save_blank)


@pytest.fixture(scope="session")
def tiny_shape() -> HybridShape:
    from tests.support.models import make_tiny_shape

    return make_tiny_shape()


@pytest.fixture
def tiny_model(tiny_shape: HybridShape) -> PreTrainedModel:
    from tests.support.models import make_tiny_model

    return make_tiny_model(tiny_shape)


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Path:
    from tests.support.models import write_tiny_checkpoint

    return write_tiny_checkpoint(tmp_path / "teacher")


@pytest.fixture
def token_ids() -> torch.Tensor:
    import torch

    return torch.randint(3, 271, (2, 29), generator=torch.Generator().manual_seed(7))


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    from tests.support.recipes import write_tiny_recipe

    return write_tiny_recipe(tmp_path)
