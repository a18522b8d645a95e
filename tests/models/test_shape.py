import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from minitron.checkpoints.headers import SINGLE_FILE
from minitron.checkpoints.names import read_place
from minitron.checkpoints.places import model_places
from minitron.models.axes import tensor_shape
from minitron.models.families import FAMILIES
from minitron.models.shape import HybridShape
from minitron.runtime.loading import count_params
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_model, make_tiny_shape
from tests.support.published import NANO_9B, NANO_12B, PATTERN_8B, PATTERN_9B, published
from tests.support.strategies import shapes


@pytest.mark.parametrize(
    ("shape", "params"),
    [
        (NANO_12B, 12_310_001_152),
        (NANO_9B, 8_888_227_328),
        (published(PATTERN_8B, 4096, 21504, 32, 128, 64), 8_100_852_736),
        (published(PATTERN_8B, 3072, 12288, 32, 112, 64), 4_489_223_040),
        (published(PATTERN_9B, 4480, 17920, 40, 112, 80), 8_923_356_912),
        (published(PATTERN_9B, 4800, 14400, 40, 120, 80), 8_965_788_600),
        (published(PATTERN_9B, 5120, 20480, 40, 128, 80), 11_386_496_128),
    ],
)
def test_published_configurations_have_their_published_parameters(shape: HybridShape, params: int) -> None:
    assert shape.params == params


@given(
    pattern=st.text(alphabet="M-*", min_size=1, max_size=9),
    dims=st.lists(st.integers(1, 40), min_size=8, max_size=8),
    kernel=st.integers(1, 6),
)
def test_parameters_equal_the_closed_form(pattern: str, dims: list[int], kernel: int) -> None:
    h, f, per_group, head_dim, groups, state, per_kv, kv = dims
    heads, nq, hd, vocab = per_group * groups, per_kv * kv, 11, 53
    d = heads * head_dim
    shape = HybridShape(
        hybrid_override_pattern=pattern,
        vocab_size=vocab,
        hidden_size=h,
        intermediate_size=f,
        num_attention_heads=nq,
        num_key_value_heads=kv,
        head_dim=hd,
        mamba_num_heads=heads,
        mamba_head_dim=head_dim,
        n_groups=groups,
        ssm_state_size=state,
        conv_kernel=kernel,
    )
    conv = d + 2 * groups * state
    mamba = h + (2 * d + 2 * groups * state + heads) * h + conv * (kernel + 1) + 3 * heads + d + d * h
    mlp = h + 2 * h * f
    attention = h + 2 * h * nq * hd + 2 * h * kv * hd
    closed = pattern.count("M") * mamba + pattern.count("-") * mlp + pattern.count("*") * attention + 2 * vocab * h + h
    assert shape.params == closed


def test_heads_that_do_not_divide_into_groups_are_refused_with_the_nearest(tiny_shape: HybridShape) -> None:
    with pytest.raises(ValueError, match="mamba_num_heads must be a multiple of n_groups=2, got 7; nearest: 6 or 8"):
        tiny_shape.resized(mamba_num_heads=7)


def test_an_unknown_block_letter_is_refused(tiny_shape: HybridShape) -> None:
    with pytest.raises(ValueError, match="must be made of M - \\* E, got 'MX' with X"):
        HybridShape(**{**tiny_shape.sizes, "hybrid_override_pattern": "MX"})


@pytest.mark.parametrize("layers", [[], [1, 0], [0, 0], [0, 99], [-1, 2]])
def test_kept_layers_out_of_range_or_order_are_refused(tiny_shape: HybridShape, layers: list[int]) -> None:
    with pytest.raises(ValueError, match="layers must be ascending"):
        tiny_shape.resized(layers=layers)


def test_resizing_keeps_what_is_not_named(tiny_shape: HybridShape) -> None:
    resized = tiny_shape.resized(layers=[0, 2, 3], intermediate_size=12)
    assert resized.hybrid_override_pattern == "M*M"
    assert resized.sizes == {**tiny_shape.sizes, "intermediate_size": 12}


def dense(model_type: str, layers: int, vocab: int, hidden: int, ffn: int, heads: int, **sizes: int) -> HybridShape:
    return HybridShape(
        model_type=model_type,
        hybrid_override_pattern="T" * layers,
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_attention_heads=heads,
        num_key_value_heads=8,
        **sizes,
    )


@pytest.mark.parametrize(
    ("shape", "params"),
    [
        (dense("qwen3", 36, 151936, 4096, 12288, 32, head_dim=128), 8_190_735_360),  # Qwen3-8B
        (dense("qwen3", 28, 151936, 1024, 3072, 16, head_dim=128, tie_word_embeddings=1), 596_049_920),  # Qwen3-0.6B
        (dense("llama", 32, 128256, 4096, 14336, 32, head_dim=128), 8_030_261_248),  # Llama-3.1-8B
        (dense("llama", 16, 128256, 2048, 8192, 32, head_dim=64, tie_word_embeddings=1), 1_235_814_400),  # Llama-3.2-1B
    ],
)
def test_published_dense_models_have_their_published_parameters(shape: HybridShape, params: int) -> None:
    assert shape.params == params


def test_a_published_hybrid_of_experts_has_its_published_total_and_active_parameters() -> None:
    """Nemotron 3 Nano: 31.6B parameters, of which 3.2B are active (arXiv 2512.20848)."""
    shape = HybridShape(
        hybrid_override_pattern="MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
        vocab_size=131072,
        hidden_size=2688,
        num_attention_heads=32,
        num_key_value_heads=2,
        head_dim=128,
        mamba_num_heads=64,
        mamba_head_dim=64,
        n_groups=8,
        ssm_state_size=128,
        n_routed_experts=128,
        num_experts_per_tok=6,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=1856,
        moe_shared_expert_intermediate_size=3712,
    )
    assert round(shape.params / 1e9, 1) == 31.6
    assert round(shape.family.active_params(shape.counts, shape.sizes) / 1e9, 1) == 3.2


def test_sizes_that_the_pattern_has_no_use_for_are_forgotten() -> None:
    plain = make_tiny_shape()
    assert make_tiny_shape(n_routed_experts=15, num_experts_per_tok=4, moe_intermediate_size=11) == plain
    assert make_moe_shape().resized(layers=[0, 2]).n_routed_experts == 0


def test_fewer_experts_than_a_token_goes_to_are_refused() -> None:
    with pytest.raises(ValueError, match="n_routed_experts must be at least 6 for num_experts_per_tok=4, got 3"):
        make_moe_shape().resized(n_routed_experts=3)


def test_a_size_that_a_family_has_no_kernel_for_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size must be a multiple of num_attention_heads=6, got 20; nearest"):
        make_dense_shape("llama").resized(hidden_size=20)


def test_a_size_of_blocks_that_are_not_there_cannot_be_given() -> None:
    shape = make_tiny_shape()
    with pytest.raises(ValueError, match="n_routed_experts must stay 0 in a model without E blocks, got 3"):
        shape.resized(n_routed_experts=3)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
@settings(max_examples=4)
@given(data=st.data())
def test_transformers_writes_the_tensors_that_are_declared(model_type: str, data: Any) -> None:
    """Names, shapes and where they lie in memory: transformers saves a model as its family's files hold it."""
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    model = make_tiny_model(shape)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        written = load_file(Path(folder) / SINGLE_FILE)
    declared = {name: tensor_shape(spec, shape.sizes) for name, spec in shape.tensors().items()}
    assert {name: tuple(tensor.shape) for name, tensor in written.items()} == declared
    assert sum(tensor.numel() for tensor in written.values()) == shape.params == count_params(model)
    for name, place in model_places(shape).items():
        torch.testing.assert_close(read_place(model.state_dict(), place), written[name], rtol=0, atol=0)
