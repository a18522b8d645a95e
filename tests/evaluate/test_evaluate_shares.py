"""Processes that share a text out: together they count every token once, and all have the means of one process."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from minitron.data.masks import PackedText
from minitron.evaluate.layerwise import evaluate_states, run_text
from minitron.evaluate.perplexity import TextEvaluation, evaluate_text
from minitron.models.shape import HybridShape
from minitron.pipeline.evaluating.layerwise import own_share
from minitron.runtime.stack import MemoryStack
from tests.support.models import make_tiny_model, make_tiny_shape

PROCESSES = 3


@dataclass
class RecordedRanks:
    """One process after the other, as if all were there: sums are those of the processes so far."""

    rank: int = 0
    world_size: int = PROCESSES
    total: torch.Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        self.total = self.total + x
        return self.total

    def in_turn(self) -> Iterator["RecordedRanks"]:
        for rank in range(self.world_size):
            self.rank = rank
            yield self


@pytest.fixture(scope="module")
def models() -> tuple[PreTrainedModel, PreTrainedModel]:
    return make_tiny_model(make_tiny_shape(), seed=1), make_tiny_model(make_tiny_shape(), seed=2)


def text(number: int) -> PackedText:
    """Sequences of which uneven parts count, the first one always."""
    rng = np.random.default_rng(4)
    counted_NT = rng.random((number, 13)) < 0.4
    counted_NT[0] = True
    return PackedText(ids_NT=rng.integers(3, 271, (number, 13), dtype=np.int32), counted_NT=counted_NT)


# Fewer than processes, no multiple of them, and several batches each.
@pytest.mark.parametrize("number", [2, 7, 20])
def test_shares_of_whole_models_add_up_to_the_text(
    models: tuple[PreTrainedModel, PreTrainedModel], number: int
) -> None:
    student, teacher = models
    expected = evaluate_text(student, text(number), teacher=teacher)
    found = [
        evaluate_text(student, text(number), teacher=teacher, batch_size=4, ranks=each)  # type: ignore[arg-type]
        for each in RecordedRanks().in_turn()
    ][-1]
    assert_close(found, expected)


@pytest.mark.parametrize("number", [2, 7])
def test_shares_of_a_block_at_a_time_add_up_to_the_text(
    models: tuple[PreTrainedModel, PreTrainedModel], tiny_shape: HybridShape, tmp_path: Path, number: int
) -> None:
    student, teacher = (MemoryStack(model, tiny_shape) for model in models)
    expected = evaluate_text(models[0], text(number), teacher=models[1])
    found = []
    for each in RecordedRanks().in_turn():
        own_NT = own_share(text(number), each)  # type: ignore[arg-type]
        states = [
            run_text(stack, own_NT, folder=tmp_path / f"{each.rank}-{n}") for n, stack in enumerate((student, teacher))
        ]
        found.append(evaluate_states(states[0], teacher=states[1], ranks=each))  # type: ignore[arg-type]
    assert_close(found[-1], expected)


def assert_close(found: TextEvaluation, expected: TextEvaluation) -> None:
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.kl_to_teacher == pytest.approx(expected.kl_to_teacher, rel=1e-5)
