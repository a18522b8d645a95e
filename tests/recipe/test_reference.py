import subprocess
import sys
from pathlib import Path

import yaml

from minitron.recipe.reference import REQUIRED, describe_recipe

EXAMPLES = Path(__file__).parents[2] / "examples"
ROWS = {row.key: row for row in describe_recipe()}


def test_every_setting_is_described_once() -> None:
    assert len(ROWS) == len(describe_recipe())
    assert [row.key for row in ROWS.values() if not row.description or not row.type] == []


def test_a_row_says_type_limits_and_default() -> None:
    rate, tokens = ROWS["distill.learning_rate"], ROWS["distill.phases[].tokens"]
    assert (rate.type, rate.default) == ("number > 0 or auto", '"auto"')
    assert (tokens.type, tokens.default) == ("integer ≥ 1", REQUIRED)
    assert ROWS["distill.teacher.mode"].type == "online | layerwise | cached"
    assert ROWS["distill.students[].shape"].type == "names, each with integer ≥ 1"
    assert ROWS["search.hidden_size"].type == "list of integer ≥ 1 or section or null"


def test_what_two_sections_have_alike_is_described_where_its_key_is_shortest() -> None:
    assert ROWS["depth_first.distill"].description.endswith("Described at `distill`.")
    assert "distill.loss.temperature" in ROWS
    assert "depth_first.distill.loss" not in ROWS


def test_every_key_of_the_shipped_recipes_is_known_or_of_a_section_described_elsewhere() -> None:
    for path in EXAMPLES.rglob("*.yaml"):
        for section, values in yaml.safe_load(path.read_text()).items():
            assert section in ROWS, path
            known = {key.split(".")[1].removesuffix("[]") for key in ROWS if key.startswith(f"{section}.")}
            assert not isinstance(values, dict) or set(values) <= known, (path, section)


def test_recipes_are_loaded_and_described_without_torch() -> None:
    program = "import sys, minitron.recipe.load, minitron.recipe.reference; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
