"""Passes that end early and mixers that are not run twice give the bits of whole passes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.models.shape import HybridShape
from minitron.prune.in_memory import prune_model
from minitron.prune.reconstruction.aligned_streams import AlignedStreams
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.partial_run import PartialRun
from minitron.runtime.hooks import HookSite, LatestActivation, collecting
from minitron.runtime.loading import load_model
from minitron.runtime.stack import MemoryStack
from tests.prune.reconstruction.test_blockwise_families import SHAPES, plan_of
from tests.support.models import write_tiny_checkpoint
from tests.support.repairs import make_samples


def opened(folder: Path, shape: HybridShape, sizes: dict[str, int], state: Path | None) -> tuple[Any, AlignedStreams]:
    teacher = load_model(write_tiny_checkpoint(folder / "teacher", shape=shape))
    plan = plan_of(open_checkpoint(folder / "teacher").shape, sizes)
    student: Any = prune_model(teacher, plan)
    pair = Alignment(teacher=MemoryStack(teacher, shape), student=MemoryStack(student, plan.target), plan=plan)
    streams = AlignedStreams(pair, make_samples(padded=True).batches(4), state)
    streams.embed()
    return student, streams


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("in_files", [False, True])
@torch.no_grad()
def test_a_block_whose_projections_changed_gives_the_bits_of_a_whole_pass(
    tmp_path: Path, name: str, in_files: bool
) -> None:
    shape, sizes = SHAPES[name]
    student, streams = opened(tmp_path, shape, sizes, tmp_path / "state" if in_files else None)
    for position, block in enumerate(student.base_model.layers):
        own = (position, block)
        run = PartialRun(streams, own, position)
        for branch in shape.family.branches[shape.hybrid_override_pattern[position]]:
            with run.learning(branch):
                for each in run.passes(
                    {"input": HookSite(module=branch.projection, side="input"), "after": HookSite()}
                ):
                    assert set(each.shown) == {"input", "after"}
            block.get_submodule(branch.projection).weight.mul_(1.5)
        expected = [streams.run_student(own, number, mask, position) for number, mask in streams.student_masks()]
        run.advance()
        for number, after in enumerate(expected):
            assert torch.equal(streams.student.read(number, position + 1), after)
        streams.student.settle(position + 1)


@torch.no_grad()
def test_a_refitted_mixer_is_not_run_again_and_is_back_in_its_place_afterwards(tmp_path: Path) -> None:
    shape, sizes = SHAPES["llama"]
    student, streams = opened(tmp_path, shape, sizes, None)
    block, (attention, mlp) = student.base_model.layers[0], shape.family.branches["T"]
    mixer, heard = block.self_attn, LatestActivation()
    run = PartialRun(streams, (0, block), 0)
    with run.learning(attention):
        assert len(list(run.passes({"after": HookSite(module=attention.entered or "", side="input")}))) == 3
    with collecting([(block, HookSite(module="self_attn.q_proj"), heard)]), run.learning(mlp):
        list(run.passes({"input": HookSite(module=mlp.projection, side="input")}))
    with pytest.raises(AssertionError, match="no pass went through"):
        _ = heard.value
    assert block.self_attn is mixer


@torch.no_grad()
def test_a_pass_ends_where_the_last_site_is_shown(tmp_path: Path) -> None:
    shape, sizes = SHAPES["llama"]
    student, streams = opened(tmp_path, shape, sizes, None)
    block, heard = student.base_model.layers[0], LatestActivation()
    with collecting([(block, HookSite(module="self_attn"), heard)]):
        shown = list(PartialRun(streams, (0, block), 0).passes({"read": HookSite(module="input_layernorm")}))
    assert [each.number for each in shown] == [0, 1, 2]
    with pytest.raises(AssertionError, match="no pass went through"):
        _ = heard.value
