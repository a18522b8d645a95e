"""Every way to prune gives the same tensors, and what was planned is what is written and what transformers loads."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.checkpoints.weights import open_weights
from minitron.models.families import FAMILIES
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape
from minitron.models.slicing import slice_tensors
from minitron.prune.checkpoint import OutputFormat, prune_checkpoint
from minitron.prune.in_memory import prune_model
from minitron.prune.plan import PrunePlan
from minitron.runtime.loading import count_params, load_model
from minitron.runtime.saving import save_model
from tests.support.exact import tensors_on_disk
from tests.support.hand import sliced_by_hand
from tests.support.models import make_tiny_model, write_tiny_checkpoint
from tests.support.strategies import plans, shapes

FEW = settings(max_examples=4)
families = pytest.mark.parametrize("model_type", sorted(FAMILIES))
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one example; pytest's own would be shared by all examples of a test."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def stored(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    with open_weights(checkpoint) as read:
        return {name: read(name) for name in checkpoint.tensors}


def assert_identical(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, rounding: float = 0.0
) -> None:
    """Names, dtypes and every bit, but for a rounding."""
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=rounding, atol=rounding, msg=lambda text, name=name: f"{name}: {text}"
        )


def tensors_of(model: Any, shape: HybridShape) -> dict[str, torch.Tensor]:
    """A loaded model's tensors by their names in files."""
    return {name: torch.from_numpy(array) for name, array in tensors_on_disk(model, shape).items()}


def num_files(checkpoint: Checkpoint) -> int:
    return len({tensor.file for tensor in checkpoint.tensors.values()})


@families
@FEW
@given(data=st.data(), dtype=DTYPES)
def test_a_model_pruned_in_memory_is_the_one_streamed_to_disk(model_type: str, data: Any, dtype: torch.dtype) -> None:
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    plan = data.draw(plans(shape))
    with scratch() as folder:
        source = open_checkpoint(write_tiny_checkpoint(folder / "teacher", shape=shape, dtype=dtype))
        in_memory = prune_model(load_model(source.folder, dtype=dtype), plan)
        on_disk = load_model(prune_checkpoint(source, plan, folder / "pruned").folder, dtype=dtype)
    assert_identical(dict(in_memory.state_dict()), dict(on_disk.state_dict()))
    assert count_params(in_memory) == plan.target.params  # tied embeddings are one parameter in memory too
    # Tables that no file holds too, such as rotary frequencies.
    assert_identical(dict(in_memory.named_buffers()), dict(on_disk.named_buffers()))
    for parameter in on_disk.parameters():
        parameter.data = parameter.data.clone()  # products round otherwise where a file's bytes are not aligned
    ids_BT = torch.randint(3, shape.vocab_size, (2, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = (model(ids_BT, use_cache=False).logits for model in (in_memory, on_disk))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@families
@FEW
@given(data=st.data(), dtype=DTYPES, source_bytes=st.integers(300, 9000), output_bytes=st.integers(300, 9000))
def test_sharding_source_or_output_changes_no_bit(
    model_type: str, data: Any, dtype: torch.dtype, source_bytes: int, output_bytes: int
) -> None:
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    plan = data.draw(plans(shape))
    with scratch() as folder:
        single = open_checkpoint(write_tiny_checkpoint(folder / "single", shape=shape, dtype=dtype))
        sharded = open_checkpoint(
            write_tiny_checkpoint(folder / "sharded", shape=shape, dtype=dtype, shard_bytes=source_bytes)
        )
        one = prune_checkpoint(single, plan, folder / "one")
        many = prune_checkpoint(sharded, plan, folder / "many", OutputFormat(shard_bytes=output_bytes))
        assert num_files(sharded) > 1 == num_files(one)
        assert_identical(stored(many), stored(one))


@families
@FEW
@given(data=st.data())
def test_streamed_tensors_are_those_sliced_by_hand(model_type: str, data: Any) -> None:
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    plan = data.draw(plans(shape))
    with scratch() as folder:
        source = open_checkpoint(write_tiny_checkpoint(folder / "teacher", shape=shape))
        found = stored(prune_checkpoint(source, plan, folder / "pruned"))
        by_hand = sliced_by_hand({name: tensor.numpy() for name, tensor in stored(source).items()}, plan)
    assert_identical(found, {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in by_hand.items()})


@families
@FEW
@given(data=st.data(), dtype=DTYPES)
def test_planned_counted_and_plainly_loaded_parameters_agree(model_type: str, data: Any, dtype: torch.dtype) -> None:
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    plan = data.draw(plans(shape))
    with scratch() as folder:
        source = open_checkpoint(write_tiny_checkpoint(folder / "teacher", shape=shape, dtype=dtype))
        written = prune_checkpoint(source, plan, folder / "pruned")
        model, info = AutoModelForCausalLM.from_pretrained(
            folder / "pruned", output_loading_info=True, **plain(model_type)
        )
    assert {fault: names for fault, names in info.items() if names} == {}
    assert written.shape == plan.target
    assert plan.target.params == written.params == count_params(model) == by_tensor(model)
    assert {tensor.dtype for tensor in written.tensors.values()} == {"F32" if dtype == torch.float32 else "BF16"}


def plain(model_type: str) -> dict[str, Any]:
    """The product over grouped experts takes only widths of whole 16 bytes."""
    return {"experts_implementation": "eager"} if FAMILIES[model_type].experts else {}


def by_tensor(model: Any) -> int:
    """Parameters, tied ones once, and the correction biases of routers, which are stored as buffers."""
    biases = (b.numel() for name, b in model.named_buffers() if name.endswith("e_score_correction_bias"))
    return sum(parameter.numel() for parameter in model.parameters()) + sum(biases)


@families
@FEW
@given(data=st.data(), dtype=DTYPES)
def test_a_loaded_model_is_saved_as_the_files_it_came_from(model_type: str, data: Any, dtype: torch.dtype) -> None:
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    with scratch() as folder:
        source = open_checkpoint(write_tiny_checkpoint(folder / "teacher", shape=shape, dtype=dtype))
        saved = save_model(load_model(source.folder).state_dict(), source, folder / "saved")
        assert_identical(stored(saved), stored(source))
        assert saved.config == source.config


@pytest.mark.parametrize("way", ["memory", "disk"])
def test_scaled_tensors_are_scaled_while_they_are_cut(way: str, tmp_path: Path) -> None:
    source = open_checkpoint(write_tiny_checkpoint(tmp_path / "teacher"))
    name = "backbone.layers.1.mixer.down_proj.weight"
    keep = Keep(layers=(1, 2), indices={("hidden_size", None): np.array([3, 1, 20])})
    plan = PrunePlan(source=source.shape, target=keep.shape(source.shape), keep=keep, scales={name: 1.5})
    by_hand = 1.5 * stored(source)[name][[3, 1, 20]]
    if way == "disk":
        found = stored(prune_checkpoint(source, plan, tmp_path / "pruned"))
    else:
        found = tensors_of(prune_model(load_model(source.folder), plan), plan.target)
    torch.testing.assert_close(found["backbone.layers.0.mixer.down_proj.weight"], by_hand)


@families
@settings(max_examples=20)
@given(data=st.data())
def test_pruning_in_two_steps_is_pruning_in_one(model_type: str, data: Any) -> None:
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    first = data.draw(plans(shape))
    second = data.draw(plans(first.target))
    model = make_tiny_model(shape)
    whole = tensors_of(model, shape)
    halfway = dict(slice_tensors(whole.__getitem__, shape, first.keep))
    expected = dict(slice_tensors(halfway.__getitem__, first.target, second.keep))
    at_once = composed(first, second)
    used = {
        axis.name
        for axis in shape.family.axes.values()
        if axis.blocks is None or set(axis.blocks) & set(second.target.hybrid_override_pattern)
    }
    assert at_once.target.hybrid_override_pattern == second.target.hybrid_override_pattern
    assert {name: at_once.target.sizes[name] for name in used} == {name: second.target.sizes[name] for name in used}
    # What is scaled is rounded in each step.
    rounding = 1e-6 if any(spec.hidden_power for spec in shape.tensors().values()) else 0.0
    assert_identical(dict(slice_tensors(whole.__getitem__, shape, at_once.keep)), expected, rounding=rounding)


def composed(first: PrunePlan, second: PrunePlan) -> PrunePlan:
    """The plan that does what two plans do after each other."""
    source, indices = first.source, {}
    layers = tuple(first.keep.layers[layer] for layer in second.keep.layers)
    for axis in source.family.axes.values():
        where = [(None, None)] if axis.blocks is None else list(zip(second.keep.layers, layers, strict=True))
        for later, before in where:
            if before is not None and source.hybrid_override_pattern[before] not in axis.blocks:
                continue
            one, two = first.keep.indices.get((axis.name, before)), second.keep.indices.get((axis.name, later))
            if one is None and two is None:
                continue
            if axis.per is None:
                whole = np.arange(source.sizes[axis.name])
                one = whole if one is None else one
                indices[axis.name, before] = one if two is None else one[two]
                continue
            # Rows of the second plan belong to entries of the owner that are left; those that are gone need any row.
            owners = first.keep.indices.get((axis.per, before), np.arange(source.sizes[axis.per]))
            rows = np.tile(np.arange(source.sizes[axis.name]), (source.sizes[axis.per], 1)) if one is None else one
            kept = second.target.sizes[axis.name]
            after = rows[:, :kept].copy()
            for position, owner in enumerate(owners.tolist()):
                after[owner] = rows[owner] if two is None else rows[owner][two[position]]
            indices[axis.name, before] = after
    keep = Keep(layers=layers, indices=indices)
    return PrunePlan(source=source, target=keep.shape(source), keep=keep)
