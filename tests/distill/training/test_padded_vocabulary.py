"""A student whose head has other rows of padding than its teacher's learns over the rows that both have."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from minitron.distill.loss.objective import Objective
from minitron.distill.teachers.cached import CachedTeacher
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training.model import DistillationModel
from minitron.errors import MinitronError
from tests.support.models import make_tiny_model, make_tiny_shape
from tests.support.teacher_caches import VOCAB, make_blocks, write

PADDING = 14


def padded(model: PreTrainedModel) -> PreTrainedModel:
    """The model with rows of padding that would take most of the probability."""
    wide = make_tiny_model(make_tiny_shape(vocab_size=VOCAB + PADDING))
    state = model.state_dict()
    for name, tensor in wide.state_dict().items():
        rows = len(state[name]) if tensor.ndim else None
        tensor[:rows].copy_(state[name])
        tensor[rows:].fill_(3.0)
    return wide


def losses(student: PreTrainedModel, teacher: Any) -> torch.Tensor:
    ids_BT = torch.from_numpy(make_blocks()[[0, 4]]).long()
    model = DistillationModel(student, teacher, Objective(cross_entropy=0.5))
    with torch.no_grad():
        found: torch.Tensor = model(ids_BT, ids_BT.roll(-1, 1), torch.tensor([0, 4]))
    return found


def test_padding_of_either_head_counts_for_nothing(tmp_path: Path) -> None:
    student, online = (make_tiny_model(make_tiny_shape(vocab_size=VOCAB), seed=seed) for seed in (1, 2))
    cached = CachedTeacher(write(tmp_path))
    plain = losses(student, OnlineTeacher(online))
    torch.testing.assert_close(losses(padded(student), OnlineTeacher(online)), plain)
    torch.testing.assert_close(losses(student, OnlineTeacher(padded(online))), plain)
    torch.testing.assert_close(losses(padded(student), cached), losses(student, cached))


def test_a_cache_over_more_rows_than_the_student_has_is_refused(tmp_path: Path) -> None:
    student = make_tiny_model(make_tiny_shape(vocab_size=VOCAB - 5))
    with pytest.raises(MinitronError, match=rf"is over {VOCAB}, the head has {VOCAB - 5}; make the cache with"):
        losses(student, CachedTeacher(write(tmp_path)))
