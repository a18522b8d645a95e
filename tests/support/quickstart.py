"""The quickstart's folder with its real teacher and little of everything else, for tests that run what pages say."""

import importlib.util
from pathlib import Path
from typing import Any

import yaml

from tests.support.pages import ROOT

QUICKSTART = ROOT / "examples" / "quickstart"
LINES = 60  # of each file of text and problems
# What is smaller than in the shipped recipe: section -> settings.
SMALL: dict[str, dict[str, Any]] = {
    "score": {"samples": 4, "seq_len": 32},
    "search": {"shortlist": 2, "top_k": 2},
    "forecast": {"levels": 1, "mixes": 3, "confidence": 0.5},
    "distill": {"tokens": 256, "seq_len": 32, "batch_size": 2, "warmup_steps": 1, "save_steps": 0},
    "evaluate": {
        "sequences": 2,
        "seq_len": 32,
        "speed": {"input_tokens": 3, "output_tokens": 2, "concurrency": 2, "repetitions": 1},
    },
}


def load_make_data() -> Any:
    """The script that makes the quickstart's data, as a module."""
    spec = importlib.util.spec_from_file_location("make_data", QUICKSTART / "make_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_small_quickstart(root: Path) -> None:
    """Writes `examples/` under a folder as a checkout has it after `make demo`, with recipes that run in seconds."""
    folder = root / "examples" / "quickstart"
    folder.mkdir(parents=True)
    (folder / "teacher").symlink_to(QUICKSTART / "teacher")
    (folder.parent / "recipes").symlink_to(ROOT / "examples" / "recipes")
    load_make_data().write_data(folder / "data", seed=0, train_problems=LINES, test_problems=LINES)
    for path in (folder / "data").iterdir():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[:LINES]), encoding="utf-8")
    (folder / "chat.jinja").symlink_to(QUICKSTART / "chat.jinja")
    for name in ("recipe.yaml", "blend.yaml"):
        (folder / name).write_text(yaml.safe_dump(smaller_recipe(QUICKSTART / name)))


def smaller_recipe(path: Path) -> Any:
    """A shipped recipe with little of everything."""
    recipe = yaml.safe_load(path.read_text())
    for section, settings in SMALL.items():
        recipe[section] = recipe.get(section, {}) | settings
    recipe["evaluate"]["task"] |= {"problems": 2, "max_new_tokens": 4}
    repair = recipe.get("prune", {}).get("repair")
    if repair is not None:
        repair |= {"samples": 4, "seq_len": 32}
    return recipe
