"""The refit of all of a block's parameters: it reaches every tensor, makes no block worse, and is resumed exactly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.places import block_places
from minitron.data.samples import Samples
from minitron.distributed import Ranks
from minitron.models.keep import Keep
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.in_memory import prune_model
from minitron.prune.plan import PrunePlan
from minitron.prune.reconstruction import block_refit
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.block_refit import BlockRefit
from minitron.prune.reconstruction.blockwise import apply_repaired, repair
from minitron.prune.reconstruction.settings import RepairSettings
from minitron.prune.reconstruction.shares import share_batches
from minitron.prune.reconstruction.write import write_repaired
from minitron.runtime.dtypes import torch_dtype
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack, MemoryStack
from tests.prune.reconstruction.test_blockwise_families import SHAPES, plan_of
from tests.support.models import write_tiny_checkpoint
from tests.support.plans import make_plan
from tests.support.repairs import make_samples, mean_kl

EPOCHS = RepairSettings(batch_size=4, epochs=2)
ALONE = EPOCHS.model_copy(update={"epochs": 0})


def refitted(teacher: Any, plan: PrunePlan, samples: Samples, settings: RepairSettings = EPOCHS) -> tuple[Any, Any]:
    student: Any = prune_model(teacher, plan)
    stacks = MemoryStack(teacher, plan.source), MemoryStack(student, plan.target)
    pair = Alignment(teacher=stacks[0], student=stacks[1], plan=plan)
    weights = {name: weight.clone() for name, weight in repair(pair, samples, settings)}
    apply_repaired(student, plan.target.family, weights.items())
    return student, weights


@pytest.mark.parametrize("name", SHAPES)
def test_it_brings_every_family_nearer_to_the_teacher(tmp_path: Path, name: str) -> None:
    shape, sizes = SHAPES[name]
    teacher = load_model(write_tiny_checkpoint(tmp_path / "teacher", shape=shape))
    plan, samples = plan_of(shape, sizes), make_samples(count=40)
    # From the sliced weights, which the closed form of so little text would leave no room for.
    settings = RepairSettings(batch_size=4, epochs=4, rate=0.03, ridge=1e9)
    before, _ = refitted(teacher, plan, samples, settings.model_copy(update={"epochs": 0}))
    after, weights = refitted(teacher, plan, samples, settings)
    assert mean_kl(teacher, after, samples) < mean_kl(teacher, before, samples)
    # All kinds of tensors of a block are moved: experts, routers, convolutions and norms as well.
    sliced, found, moved = before.state_dict(), after.state_dict(), set()
    for position, kind in enumerate(plan.target.hybrid_override_pattern):
        prefix = shape.family.block_prefix.format(layer=position)
        names = block_places(shape.family, kind, plan.target.sizes)
        inside = shape.family.name_in_memory(prefix)
        parameters = {name for name, _ in after.base_model.layers[position].named_parameters()}
        if all(prefix + name in weights for name, place in names.items() if place.name in parameters):
            assert all(not torch.equal(found[inside + name], sliced[inside + name]) for name in parameters)
            moved.add(kind)
    assert moved == set(plan.target.hybrid_override_pattern)
    assert ("lm_head.weight" in weights) == (shape.tie_word_embeddings == 0)
    if shape.tie_word_embeddings:
        assert after.get_output_embeddings().weight is after.get_input_embeddings().weight


def test_a_block_is_never_worse_on_held_out_batches_at_any_rate(tiny_checkpoint: Path) -> None:
    """A rate that ruins a block leaves the closed form's weights, bit for bit."""
    teacher = load_model(tiny_checkpoint)
    plan, samples = make_plan(open_checkpoint(tiny_checkpoint).shape), make_samples()
    _, expected = refitted(teacher, plan, samples, ALONE)
    _, found = refitted(teacher, plan, samples, EPOCHS.model_copy(update={"rate": 30.0}))
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_block_that_already_follows_its_teacher_is_left_alone(tiny_checkpoint: Path) -> None:
    source = open_checkpoint(tiny_checkpoint)
    plan = PrunePlan(source=source.shape, target=source.shape, keep=Keep(layers=tuple(range(8)), indices={}))
    teacher = load_model(tiny_checkpoint)
    student, _ = refitted(teacher, plan, make_samples())
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], value, rtol=0, atol=1e-4)


def test_the_error_is_the_mean_square_over_counted_tokens_in_float64(tmp_path: Path) -> None:
    shape, sizes = SHAPES["llama"]
    teacher = load_model(write_tiny_checkpoint(tmp_path / "teacher", shape=shape))
    plan, samples = plan_of(shape, sizes), make_samples(padded=True)
    student: Any = prune_model(teacher, plan)
    stacks = MemoryStack(teacher, plan.source), MemoryStack(student, plan.target)
    pair = Alignment(teacher=stacks[0], student=stacks[1], plan=plan)
    share = share_batches(samples, 4, Ranks.alone(), by="sample")
    streams = block_refit.AlignedStreams(pair, share.batches, None)
    with torch.no_grad():
        streams.embed()
        refit = BlockRefit(streams, share, EPOCHS, block_refit.Rounding(plan.target, {}))
        wanted = torch.full((2, 24, 18), 0.25)
        found = float(refit._own_error((0, student.base_model.layers[0]), 0, lambda _: wanted, 2))
        after = stacks[1].run([(0, student.base_model.layers[0])], streams.student.read(2, 0), None).double().numpy()
    lengths = samples.lengths[8:] if samples.lengths is not None else ()
    counted = np.concatenate([row[:length] for row, length in zip(after, lengths, strict=True)])
    assert found == pytest.approx(((counted - 0.25) ** 2).mean(), rel=1e-5)


def test_padding_is_not_counted(tiny_checkpoint: Path) -> None:
    plan, padded = make_plan(open_checkpoint(tiny_checkpoint).shape), make_samples(padded=True)
    other_ids = padded.token_ids.copy()
    for row, length in enumerate(padded.lengths if padded.lengths is not None else ()):
        other_ids[row, length:] = 7
    teacher = load_model(tiny_checkpoint)
    _, found = refitted(teacher, plan, padded)
    _, expected = refitted(teacher, plan, Samples(token_ids=other_ids, lengths=padded.lengths))
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-4)


def test_one_batch_is_refused(tiny_checkpoint: Path) -> None:
    plan = make_plan(open_checkpoint(tiny_checkpoint).shape)
    with pytest.raises(ValueError, match="needs two batches of samples or more"):
        refitted(load_model(tiny_checkpoint), plan, make_samples(count=4))


def on_disk(checkpoint: Path, output: Path) -> tuple[Alignment, Any]:
    source = open_checkpoint(checkpoint)
    plan = make_plan(source.shape)
    written = prune_checkpoint(source, plan, output)
    return Alignment(teacher=LayerwiseStack(source), student=LayerwiseStack(written), plan=plan), written


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layerwise_on_disk_equals_in_memory_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "teacher", dtype=dtype)
    pair, written = on_disk(checkpoint, tmp_path / "pruned")
    dtypes = {name: torch_dtype(stored.dtype) for name, stored in written.tensors.items()}
    samples, plan, teacher = make_samples(padded=True), pair.plan, load_model(checkpoint)
    student = prune_model(teacher, plan)  # one that was loaded would lie in the files that are written over
    write_repaired(written, repair(pair, samples, EPOCHS, dtypes=dtypes, state_folder=tmp_path / "state"))
    whole = Alignment(teacher=MemoryStack(teacher, plan.source), student=MemoryStack(student, plan.target), plan=plan)
    apply_repaired(student, plan.target.family, repair(whole, samples, EPOCHS, dtypes=dtypes))
    found = load_model(written.folder).state_dict()
    assert all(torch.equal(found[name], value) for name, value in student.state_dict().items())


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("stop", [2, 5])
def test_an_interrupted_refit_ends_with_the_same_bits(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    pair, expected = on_disk(tiny_checkpoint, tmp_path / "whole")
    write_repaired(expected, repair(pair, make_samples(), EPOCHS, state_folder=tmp_path / "whole-state"))
    pair, written = on_disk(tiny_checkpoint, tmp_path / "killed")
    rounds, whole = 0, block_refit.Rounding.round_block

    def killed(*args: Any) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == stop:
            raise _KilledError
        whole(*args)

    with monkeypatch.context() as patch, pytest.raises(_KilledError):
        patch.setattr(block_refit.Rounding, "round_block", killed)
        write_repaired(written, repair(pair, make_samples(), EPOCHS, state_folder=tmp_path / "state"))
    source = open_checkpoint(tiny_checkpoint)
    again = Alignment(teacher=LayerwiseStack(source), student=LayerwiseStack(written), plan=pair.plan)
    write_repaired(written, repair(again, make_samples(), EPOCHS, state_folder=tmp_path / "state"))
    found, wanted = load_model(written.folder).state_dict(), load_model(expected.folder).state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
