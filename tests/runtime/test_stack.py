"""Running a model block by block gives the numbers of the whole model, from memory and from files."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import PreTrainedModel

from minitron.checkpoints import reading
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.headers import StoredTensor
from minitron.models.families import FAMILIES
from minitron.models.shape import HybridShape
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack, MemoryStack, Stack
from tests.support.models import write_tiny_checkpoint
from tests.support.strategies import shapes, tokens


@pytest.fixture(params=["memory", "layerwise"])
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Stack:
    folder = write_tiny_checkpoint(tmp_path / "teacher", shard_bytes=9000, dtype=torch.bfloat16)
    checkpoint = open_checkpoint(folder)
    if request.param == "memory":
        return MemoryStack(load_model(folder), checkpoint.shape)
    return LayerwiseStack(checkpoint)


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_block_by_block_equals_the_whole_model(
    stack: Stack, tmp_path: Path, token_ids: torch.Tensor, padded: bool
) -> None:
    whole = load_model(tmp_path / "teacher")
    mask_BT = torch.ones_like(token_ids, dtype=torch.bool)
    if padded:
        mask_BT[1, 20:] = False
    given_mask = mask_BT if padded else None
    backbone: Any = whole.base_model
    expected_BTD = backbone(
        token_ids, attention_mask=mask_BT.long() if padded else None, use_cache=False
    ).last_hidden_state
    hidden_BTD = stack.embed(token_ids)
    for block in stack.blocks(range(8)):
        hidden_BTD = stack.run([block], hidden_BTD, given_mask)
    hidden_BTD = stack.final_norm(hidden_BTD)
    torch.testing.assert_close(hidden_BTD[mask_BT], expected_BTD[mask_BT], rtol=0, atol=0)
    logits_BTV = torch.cat([hidden_BTD @ rows_ND.T for rows_ND in stack.head()], dim=-1)
    torch.testing.assert_close(logits_BTV[mask_BT], whole(token_ids, attention_mask=mask_BT.long()).logits[mask_BT])


@torch.no_grad()
def test_leaving_out_a_block_is_bypassing_it(stack: Stack, tmp_path: Path, token_ids: torch.Tensor) -> None:
    whole = load_model(tmp_path / "teacher")
    backbone: Any = whole.base_model
    backbone.layers[3].forward = lambda hidden_states, **_: hidden_states
    expected_BTD = backbone(token_ids, use_cache=False).last_hidden_state
    hidden_BTD = stack.embed(token_ids)
    for block in stack.blocks([0, 1, 2, 4, 5, 6, 7]):
        hidden_BTD = stack.run([block], hidden_BTD, None)
    torch.testing.assert_close(stack.final_norm(hidden_BTD), expected_BTD, rtol=0, atol=0)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
@pytest.mark.parametrize("way", ["memory", "layerwise"])
@settings(max_examples=6)
@given(data=st.data(), padded=st.booleans(), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
@torch.no_grad()
def test_any_model_block_by_block_equals_itself_whole(
    way: str, model_type: str, data: Any, padded: bool, dtype: torch.dtype
) -> None:
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    left_out = data.draw(st.sets(st.sampled_from(range(shape.num_hidden_layers)), max_size=1))
    ids_BT = tokens(shape, 0)
    mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    mask_BT[1, 7:] = not padded
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(
            write_tiny_checkpoint(Path(folder) / "teacher", shape=shape, shard_bytes=4000, dtype=dtype)
        )
        whole = load_model(checkpoint.folder)
        stack: Stack = MemoryStack(whole, shape) if way == "memory" else LayerwiseStack(checkpoint)
        given_mask, hidden_BTD = mask_BT if padded else None, stack.embed(ids_BT)
        for block in stack.blocks([layer for layer in range(shape.num_hidden_layers) if layer not in left_out]):
            hidden_BTD = stack.run([block], hidden_BTD, given_mask)
        logits_BTV = torch.cat([stack.final_norm(hidden_BTD) @ rows_ND.T for rows_ND in stack.head()], dim=-1)
    backbone: Any = whole.base_model
    for layer in left_out:
        # bamba's layers return a pair.
        is_pair = model_type == "bamba"
        backbone.layers[layer].forward = lambda hidden_states, is_pair=is_pair, **_: (
            (hidden_states, None) if is_pair else hidden_states
        )
    expected_BTV = whole(ids_BT, attention_mask=mask_BT.long() if padded else None, use_cache=False).logits
    torch.testing.assert_close(logits_BTV[mask_BT], expected_BTV[mask_BT], rtol=1e-5, atol=1e-6)


def test_a_layerwise_stack_holds_no_block_after_use(tiny_checkpoint: Path) -> None:
    stack = LayerwiseStack(open_checkpoint(tiny_checkpoint))
    seen = [block for _, block in stack.blocks([0, 1, 2])]
    assert all(parameter.is_meta for block in seen for parameter in block.parameters())


def test_a_stack_leaves_the_model_as_it_was(
    tiny_model: PreTrainedModel, tiny_shape: HybridShape, token_ids: torch.Tensor
) -> None:
    before = tiny_model(token_ids).logits
    stack = MemoryStack(tiny_model, tiny_shape)
    stack.run(list(stack.blocks([0])), stack.embed(token_ids), None)
    torch.testing.assert_close(tiny_model(token_ids).logits, before, rtol=0, atol=0)


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 7),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    data=st.data(),
)
def test_reading_rows_equals_converting_them(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, dtype: torch.dtype, data: Any
) -> None:
    folder = tmp_path_factory.mktemp("tensor")
    tensor = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).to(dtype)
    save_file({"x": tensor}, folder / "x.safetensors")
    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    size = (folder / "x.safetensors").stat().st_size
    stored = StoredTensor(
        file=folder / "x.safetensors", dtype=names[dtype], shape=(rows, columns), start=size - tensor.nbytes
    )
    first = data.draw(st.integers(0, rows - 1))
    count = data.draw(st.integers(1, rows - first))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BUFFER_BYTES", 24)
        found = reading.read_fp32(stored, first=first, count=count)
    np.testing.assert_array_equal(found, tensor[first : first + count].float().numpy())


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\0" * 10)
    stored = StoredTensor(file=tmp_path / "x", dtype="F32", shape=(4, 2), start=0)
    with pytest.raises(ValueError, match="ends before its tensors do"):
        reading.read_fp32(stored)


def test_rows_outside_a_tensor_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\0" * 400)
    stored = StoredTensor(file=tmp_path / "x", dtype="F32", shape=(4, 2), start=0)
    with pytest.raises(ValueError, match="rows must be among the tensor's 4, got 4 to 4"):
        reading.read_fp32(stored, first=4, count=1)


def test_a_model_in_training_mode_is_refused(tiny_model: PreTrainedModel, tiny_shape: HybridShape) -> None:
    with pytest.raises(ValueError, match="evaluation mode"):
        MemoryStack(tiny_model.train(), tiny_shape)
