"""The evaluate section: what models are held in, and what is not measured a block at a time."""

from typing import Any

import pytest

from minitron.errors import RecipeError
from minitron.recipe.evaluate import EvaluateSection
from minitron.recipe.load import make_section

TASK = {"name": "sums", "path": "problems.jsonl"}


def section(**settings: Any) -> EvaluateSection:
    return make_section(EvaluateSection, {"data": [{"path": "heldout.txt"}], **settings})


@pytest.mark.parametrize(
    ("dtype", "device", "held"),
    [
        ("auto", "cpu", "fp32"),
        ("auto", "cuda", "bf16"),
        ("auto", "cuda:1", "bf16"),
        ("auto", "mps", "fp32"),
        ("fp32", "cuda", "fp32"),
        ("bf16", "cpu", "bf16"),
    ],
)
def test_auto_is_bf16_on_cuda_alone(dtype: str, device: str, held: str) -> None:
    assert section(dtype=dtype).dtype_on(device) == held


def test_speed_is_measured_by_default_but_not_a_block_at_a_time() -> None:
    assert section().speed is not None
    assert section(speed=None).speed is None
    layerwise = section(layerwise=True)
    assert layerwise.speed is None
    assert make_section(EvaluateSection, layerwise.model_dump()) == layerwise


@pytest.mark.parametrize(
    ("asked", "mend"),
    [
        ({"task": TASK}, "set task: null, or layerwise: false"),
        ({"speed": {"repetitions": 1}}, "set speed: null, or layerwise: false"),
        ({"task": TASK, "speed": {}}, "set task: null and speed: null, or layerwise: false"),
    ],
)
def test_what_needs_whole_models_is_refused_a_block_at_a_time(asked: dict[str, Any], mend: str) -> None:
    with pytest.raises(RecipeError, match=f"a task and speed need whole models: {mend}") as caught:
        section(layerwise=True, **asked)
    assert "\n" not in str(caught.value)
    section(layerwise=False, **asked)
