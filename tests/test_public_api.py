"""`import minitron`: what it gives, that each name is documented, and that it costs nothing before it is used."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import minitron

NEEDED = {
    "open_checkpoint",
    "calibrate",
    "Scores",
    "load_scores",
    "search",
    "prune",
    "merge",
    "distill",
    "evaluate",
    "fit",
    "load_recipe",
    "run",
    "MinitronError",
}


def in_a_process(program: str) -> str:
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return ended.stdout


def test_importing_it_loads_nothing_and_is_instant() -> None:
    heavy = "{'torch', 'numpy', 'pydantic', 'rich', 'yaml', 'transformers', 'importlib.metadata'}"
    printed = in_a_process(
        "import json, sys, time\nbefore, started = set(sys.modules), time.process_time()\nimport minitron\n"
        f"print(json.dumps([time.process_time() - started, sorted({heavy} & (set(sys.modules) - before))]))"
    )
    seconds, loaded = json.loads(printed)
    assert loaded == []
    assert seconds < 0.1


def test_it_gives_what_a_notebook_needs() -> None:
    assert set(minitron.__all__) >= NEEDED
    assert dir(minitron) == minitron.__all__ == sorted(minitron.__all__)


@pytest.mark.parametrize("name", [name for name in minitron.__all__ if name != "__version__"])
def test_every_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(minitron, name)
    assert callable(value)
    assert len(inspect.getdoc(value) or "") > 40
    if inspect.isfunction(value):
        documented = inspect.getdoc(value) or ""
        for parameter in inspect.signature(value).parameters:
            assert f"{parameter}:" in documented
        assert "Example:" in documented


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'prnue'"):
        minitron.prnue  # noqa: B018


def test_functions_go_before_packages_of_their_name() -> None:
    import minitron.prune.plan
    import minitron.search.record

    assert inspect.isfunction(minitron.prune)
    assert inspect.isfunction(minitron.search)


def test_its_version_is_the_installed_one() -> None:
    assert minitron.__version__.count(".") == 2


def test_paths_may_be_text(recipe_path: Path) -> None:
    tiny_checkpoint = recipe_path.parent / "teacher"
    assert minitron.open_checkpoint(str(tiny_checkpoint)).params > 0
    assert minitron.fit(str(tiny_checkpoint), context=64)["fits"]
    assert minitron.load_recipe(str(recipe_path), ["seed=3"]).seed == 3


def test_faults_are_of_one_kind(tiny_checkpoint: Path) -> None:
    with pytest.raises(minitron.MinitronError, match="gpu must be one of"):
        minitron.fit(tiny_checkpoint, gpu="zzz")
    with pytest.raises(minitron.MinitronError, match="accounting"):
        minitron.fit(tiny_checkpoint, accounting="zzz")
    with pytest.raises(minitron.MinitronError, match="checkpoint folder not found"):
        minitron.open_checkpoint("nowhere")
    with pytest.raises(minitron.MinitronError, match="unknown key sampels"):
        minitron.calibrate(tiny_checkpoint, "text.txt", output="new", settings={"sampels": 3})


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5])
def test_a_seed_that_numpy_does_not_take_is_refused(tmp_path: Path, seed: int) -> None:
    with pytest.raises(minitron.MinitronError, match="seed must be a whole number between"):
        minitron.calibrate(tmp_path, "text.txt", output=tmp_path / "scores", seed=seed)
