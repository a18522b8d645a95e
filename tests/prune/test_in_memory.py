from pathlib import Path

import pytest
import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.models.shape import HybridShape
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.in_memory import prune_model
from minitron.runtime.loading import load_model
from tests.support.models import make_tiny_shape
from tests.support.plans import make_plan


def test_a_model_pruned_in_memory_equals_one_pruned_on_disk(
    tmp_path: Path, tiny_checkpoint: Path, token_ids: torch.Tensor
) -> None:
    source = open_checkpoint(tiny_checkpoint)
    plan, teacher = make_plan(source.shape), load_model(tiny_checkpoint)
    in_memory = prune_model(teacher, plan)
    on_disk = load_model(prune_checkpoint(source, plan, tmp_path / "pruned").folder)
    with torch.no_grad():
        torch.testing.assert_close(in_memory(token_ids).logits, on_disk(token_ids).logits, rtol=0, atol=0)
    assert in_memory.config.hybrid_override_pattern == plan.target.hybrid_override_pattern


def test_training_what_was_pruned_leaves_the_teacher_as_it_is(tiny_checkpoint: Path) -> None:
    source = open_checkpoint(tiny_checkpoint)
    teacher = load_model(tiny_checkpoint)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = prune_model(teacher, make_plan(source.shape))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    for name, tensor in teacher.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_a_plan_for_another_shape_is_refused(tiny_checkpoint: Path) -> None:
    other: HybridShape = make_tiny_shape(hidden_size=26)
    with pytest.raises(ValueError, match="the plan must start from the model's shape"):
        prune_model(load_model(tiny_checkpoint), make_plan(other))
