"""Teachers that run a model: in memory, and one larger than memory."""

from pathlib import Path

import numpy as np
import pytest
import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.distill.teachers.layerwise import LayerwiseTeacher
from minitron.distill.teachers.online import OnlineTeacher
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_shape, write_tiny_checkpoint

SHAPES = {"hybrid": make_tiny_shape(), "experts": make_moe_shape(), "dense": make_dense_shape("llama")}
BLOCKS_NT = np.random.default_rng(5).integers(3, 271, (7, 19)).astype(np.int32)


class CountingStack(LayerwiseStack):
    """Counts how often the blocks of the model are read."""

    passes = 0

    def blocks(self, layers):  # type: ignore[no-untyped-def]
        self.passes += 1
        return super().blocks(layers)


def batch(*index: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(BLOCKS_NT[list(index)].astype(np.int64)), torch.tensor(index)


def layerwise(folder: Path, *, window_sequences: int) -> tuple[LayerwiseTeacher, CountingStack]:
    stack = CountingStack(open_checkpoint(folder))
    return LayerwiseTeacher(stack, BLOCKS_NT, window_sequences=window_sequences), stack


@pytest.mark.parametrize("name", SHAPES)
def test_layer_by_layer_gives_what_the_whole_model_does(tmp_path: Path, name: str) -> None:
    folder = write_tiny_checkpoint(tmp_path / "teacher", shape=SHAPES[name])
    expected = OnlineTeacher(load_model(folder)).targets(*batch(0, 1, 2))
    found = layerwise(folder, window_sequences=3)[0].targets(*batch(0, 1, 2))
    torch.testing.assert_close(found.hidden_ND, expected.hidden_ND, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.head_VD, expected.head_VD, atol=0, rtol=0)


def test_windows_are_computed_where_they_are_asked_for(tiny_checkpoint: Path) -> None:
    teacher, stack = layerwise(tiny_checkpoint, window_sequences=3)
    online = OnlineTeacher(load_model(tiny_checkpoint))
    # Batches; how often the checkpoint was read by then: a batch over a window's end, a last window that is short,
    # and a step back.
    for index, passes in [((0, 1), 1), ((2, 3), 2), ((4, 5), 2), ((6,), 3), ((6,), 3), ((5,), 4), ((6,), 4), ((4,), 5)]:
        found, expected = teacher.targets(*batch(*index)), online.targets(*batch(*index))
        torch.testing.assert_close(found.hidden_ND, expected.hidden_ND, atol=1e-5, rtol=1e-5)
        assert stack.passes == passes


def test_a_block_does_not_depend_on_where_its_window_begins(tiny_checkpoint: Path) -> None:
    wide, narrow = (layerwise(tiny_checkpoint, window_sequences=width)[0] for width in (5, 2))
    assert torch.equal(wide.targets(*batch(0, 1, 2)).hidden_ND, narrow.targets(*batch(0, 1, 2)).hidden_ND)


def test_a_batch_of_other_text_is_refused(tiny_checkpoint: Path) -> None:
    teacher, _ = layerwise(tiny_checkpoint, window_sequences=3)
    with pytest.raises(ValueError, match="must be of the phase's text"):
        teacher.targets(batch(0, 1)[0], torch.tensor([0, 2]))


@pytest.mark.parametrize("block", [-1, 7])
def test_a_block_beyond_the_text_is_refused(tiny_checkpoint: Path, block: int) -> None:
    teacher, _ = layerwise(tiny_checkpoint, window_sequences=3)
    with pytest.raises(ValueError, match=f"among the phase's 7, got {block}"):
        teacher.targets(batch(0)[0], torch.tensor([block]))


def test_an_empty_window_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="window_sequences must be at least 1"):
        layerwise(tiny_checkpoint, window_sequences=0)


def test_a_teacher_is_frozen_and_gives_no_gradient(tiny_checkpoint: Path) -> None:
    model = load_model(tiny_checkpoint).train()
    found = OnlineTeacher(model).targets(*batch(0))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not found.hidden_ND.requires_grad
    assert not found.head_VD.requires_grad
