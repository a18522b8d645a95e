import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitron.hybrid.shape import HybridShape

PATTERN_12B = "M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-"
PATTERN_9B = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"
PATTERN_8B = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"


def published(pattern: str, hidden: int, ffn: int, nq: int, heads: int, head_dim: int) -> HybridShape:
    return HybridShape(
        hybrid_override_pattern=pattern,
        vocab_size=131072,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_attention_heads=nq,
        num_key_value_heads=8,
        head_dim=128,
        mamba_num_heads=heads,
        mamba_head_dim=head_dim,
        n_groups=8,
        ssm_state_size=128,
    )


NANO_12B = published(PATTERN_12B, 5120, 20480, 40, 128, 80)
NANO_9B = published(PATTERN_9B, 4480, 15680, 40, 128, 80)


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
