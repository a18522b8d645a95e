"""bf16 copies that autocast makes of fp32 weights do not outlive their use."""

from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from minitron.distill.loss.objective import Objective
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training.model import DistillationModel
from minitron.models.shape import HybridShape
from tests.support.models import make_tiny_model


class NarrowCopies(TorchDispatchMode):
    """Remembers every bf16 copy of one size."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self._dims = dims
        self._made: list[StorageWeakRef] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if "_to_copy" in str(func) and found.dtype == torch.bfloat16 and tuple(found.shape) == self._dims:
            self._made.append(StorageWeakRef(found.untyped_storage()))
        return found

    def count(self) -> tuple[int, int]:
        """Made, and still held."""
        return len(self._made), sum(not made.expired() for made in self._made)


@pytest.mark.parametrize("narrow", [True, False])
def test_a_recomputed_block_leaves_no_copies_of_its_weights_and_the_loss_is_the_same(
    tiny_shape: HybridShape, token_ids: torch.Tensor, narrow: bool
) -> None:
    student, teacher = make_tiny_model(tiny_shape), OnlineTeacher(make_tiny_model(tiny_shape, seed=1))
    model = DistillationModel(student, teacher, Objective())
    inputs = (token_ids, token_ids.roll(-1, 1), torch.arange(len(token_ids)))
    student.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        kept = model(*inputs)
    student.activation_checkpointing_enable({"use_reentrant": False})
    up_proj = NarrowCopies((tiny_shape.intermediate_size, tiny_shape.hidden_size))
    with up_proj, torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        recomputed = model(*inputs)
        made, held = up_proj.count()
    # The teacher's three MLP blocks and the student's.
    assert (made, held) == ((6, 0) if narrow else (0, 0))
    torch.testing.assert_close(recomputed, kept, rtol=0, atol=0)
