"""What a teacher says of a text is computed once, and is what it would say again, bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from minitron.data.masks import PackedText
from minitron.evaluate import teacher_states
from minitron.evaluate.perplexity import evaluate_text
from minitron.evaluate.teacher_states import TeacherStates
from minitron.models.shape import HybridShape
from tests.support.models import make_tiny_model


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The models that were run, one entry a batch."""
    found: list[object] = []
    plain = teacher_states.last_hidden_states

    def counted(model: PreTrainedModel, ids_BT: torch.Tensor) -> torch.Tensor:
        found.append(model)
        return plain(model, ids_BT)

    monkeypatch.setattr(teacher_states, "last_hidden_states", counted)
    return found


def packed(seed: int) -> PackedText:
    rng = np.random.default_rng(seed)
    return PackedText(ids_NT=rng.integers(3, 271, (5, 9), dtype=np.int32), counted_NT=rng.random((5, 9)) < 0.4)


def test_the_teacher_runs_once_for_all_students_and_itself(
    tiny_model: PreTrainedModel, tiny_shape: HybridShape, passes: list[object]
) -> None:
    text, students = packed(0), [tiny_model, *(make_tiny_model(tiny_shape, seed=seed) for seed in (1, 2))]
    plain = [evaluate_text(model, text, teacher=tiny_model, batch_size=2) for model in students]
    del passes[:]
    taught = TeacherStates(tiny_model)
    assert [evaluate_text(model, text, teacher=taught, batch_size=2) for model in students] == plain
    assert passes.count(tiny_model) == 3
    assert len(passes) == 9


@pytest.mark.parametrize("change", ["ids", "mask", "no mask"])
def test_another_text_is_not_mistaken_for_the_one_that_is_kept(
    change: str, tiny_model: PreTrainedModel, tiny_shape: HybridShape
) -> None:
    student, text, other = make_tiny_model(tiny_shape, seed=1), packed(0), packed(1)
    changed: dict[str, Any] = {"ids_NT": text.ids_NT, "counted_NT": text.counted_NT}
    changed |= {"ids": {"ids_NT": other.ids_NT}, "mask": {"counted_NT": other.counted_NT}}.get(
        change, {"counted_NT": None}
    )
    taught = TeacherStates(tiny_model)
    evaluate_text(student, text, teacher=taught)
    expected = evaluate_text(student, PackedText(**changed), teacher=tiny_model)
    assert evaluate_text(student, PackedText(**changed), teacher=taught) == expected


def test_what_there_is_no_room_for_is_computed_again(
    tiny_model: PreTrainedModel, tiny_shape: HybridShape, passes: list[object]
) -> None:
    student = make_tiny_model(tiny_shape, seed=1)
    text = PackedText(ids_NT=packed(0).ids_NT)
    taught = TeacherStates(tiny_model, most_bytes=2 * 8 * tiny_shape.hidden_size * 4)  # the first batch of three
    first, second = (evaluate_text(student, text, teacher=taught, batch_size=2) for _ in range(2))
    assert first == second
    # The last batch has one sequence and finds no room either.
    assert passes.count(tiny_model) == 3 + 2
