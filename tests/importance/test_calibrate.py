"""Scores against an oracle: a plain forward with hooks written by hand, in fp64, one sample at a time."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from minitron.hybrid.shape import HybridShape
from minitron.importance import Scores, calibrate
from tests.conftest import make_tiny_model

PAD = 0


def oracle(model: PreTrainedModel, shape: HybridShape, samples: list[torch.Tensor]) -> Scores:
    """The published statistics, sample by sample, from activations that a forward leaves behind."""
    backbone: Any = model.base_model
    heard: dict[tuple[str, int], torch.Tensor] = {}

    def keep(name: str, layer: int) -> Any:
        return lambda _module, _args, output: heard.__setitem__((name, layer), output[0].double())

    def keep_input(layer: int) -> Any:
        return lambda _module, args: heard.__setitem__(("ffn", layer), args[0][0].double())

    handles = []
    for layer, block in enumerate(backbone.layers):
        handles.append(block.norm.register_forward_hook(keep("norm", layer)))
        handles.append(block.register_forward_hook(keep("after", layer)))
        if shape.hybrid_override_pattern[layer] == "M":
            handles.append(block.mixer.in_proj.register_forward_hook(keep("in_proj", layer)))
        if shape.hybrid_override_pattern[layer] == "-":
            handles.append(block.mixer.down_proj.register_forward_pre_hook(keep_input(layer)))
    inner = shape.mamba_num_heads * shape.mamba_head_dim
    squares: dict[tuple[str, int], Any] = {}
    change = np.zeros(shape.num_hidden_layers)
    tokens = 0
    for ids_T in samples:
        with torch.no_grad():
            before_TD = backbone.embeddings(ids_T).double()
            backbone(ids_T[None], use_cache=False)
        for layer in range(shape.num_hidden_layers):
            after_TD = heard["after", layer]
            cosine_T = (before_TD * after_TD).sum(1) / (before_TD.norm(dim=1) * after_TD.norm(dim=1))
            change[layer] += float((1 - cosine_T).sum())
            before_TD = after_TD
        tokens += len(ids_T)
        for (name, layer), x_TC in heard.items():
            if name == "in_proj":
                x_TC = x_TC[:, inner : 2 * inner]
            squares[name, layer] = squares.get((name, layer), 0) + x_TC.abs().mean(0).square()
    for handle in handles:
        handle.remove()
    roots = {key: value.sqrt().numpy() for key, value in squares.items()}
    return Scores(
        hidden_size=np.sum([roots["norm", layer] for layer in range(shape.num_hidden_layers)], axis=0),
        intermediate_size={layer: roots["ffn", layer] for layer in shape.layers_of("-")},
        mamba={
            layer: roots["in_proj", layer].reshape(shape.mamba_num_heads, shape.mamba_head_dim)
            for layer in shape.layers_of("M")
        },
        depth=change / tokens,
        num_samples=len(samples),
        num_tokens=tokens,
    )


def assert_same(found: Scores, expected: Scores) -> None:
    np.testing.assert_allclose(found.hidden_size, expected.hidden_size, rtol=1e-5)
    np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-4, atol=1e-7)
    for name in ("intermediate_size", "mamba"):
        layers = getattr(expected, name)
        assert list(getattr(found, name)) == list(layers)
        for layer, values in layers.items():
            np.testing.assert_allclose(getattr(found, name)[layer], values, rtol=1e-5)
    assert (found.num_samples, found.num_tokens) == (expected.num_samples, expected.num_tokens)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_packed_scores_equal_the_oracle_at_any_batch_size(
    tiny_model: PreTrainedModel, tiny_shape: HybridShape, batch_size: int
) -> None:
    blocks_NT = np.random.default_rng(0).integers(3, 271, (5, 13), dtype=np.int32)
    samples = [torch.from_numpy(row).long() for row in blocks_NT]
    found = calibrate(tiny_model, tiny_shape, blocks_NT, batch_size=batch_size)
    assert_same(found, oracle(tiny_model, tiny_shape, samples))


def test_padded_scores_equal_the_oracle_on_the_bare_samples(
    tiny_model: PreTrainedModel, tiny_shape: HybridShape
) -> None:
    rng = np.random.default_rng(1)
    lengths = [5, 11, 13]
    blocks_NT = np.full((3, 13), PAD, dtype=np.int32)
    for row, length in enumerate(lengths):
        blocks_NT[row, -length:] = rng.integers(3, 271, length)
    samples = [torch.from_numpy(row[row != PAD]).long() for row in blocks_NT]
    found = calibrate(tiny_model, tiny_shape, blocks_NT, batch_size=3, pad_token_id=PAD)
    assert_same(found, oracle(tiny_model, tiny_shape, samples))


def test_planted_dead_units_rank_last(tiny_shape: HybridShape) -> None:
    model = make_tiny_model(tiny_shape)
    blocks: Any = model.base_model
    mlp, mamba = tiny_shape.layers_of("-")[0], tiny_shape.layers_of("M")[1]
    inner = tiny_shape.mamba_num_heads * tiny_shape.mamba_head_dim
    with torch.no_grad():
        blocks.layers[mlp].mixer.up_proj.weight[17] = 0
        in_proj_RD = blocks.layers[mamba].mixer.in_proj.weight
        in_proj_RD[inner + 6 * 5 : inner + 7 * 5] = 0  # head 6
        in_proj_RD[inner + 3 : 2 * inner : 5] = 0  # channel 3 of every head
        for block in blocks.layers:
            block.norm.weight[9] = 0
        blocks.layers[7].mixer.down_proj.weight.zero_()
    blocks_NT = np.random.default_rng(0).integers(3, 271, (4, 13), dtype=np.int32)
    scores = calibrate(model, tiny_shape, blocks_NT)
    assert scores.intermediate_size[mlp].argmin() == 17
    assert np.linalg.norm(scores.mamba[mamba], axis=1).argmin() == 6
    assert np.linalg.norm(scores.mamba[mamba], axis=0).argmin() == 3
    assert scores.hidden_size.argmin() == 9
    assert scores.depth.argmin() == 7


def test_calibration_leaves_no_hook_behind(tiny_model: PreTrainedModel, tiny_shape: HybridShape) -> None:
    calibrate(tiny_model, tiny_shape, np.full((1, 4), 9, dtype=np.int32))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_model.modules())
