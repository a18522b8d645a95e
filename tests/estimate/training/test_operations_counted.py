"""Operations of a forward pass against the matrix products that torch counts in transformers' own code."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minitron.estimate.training.operations import DELTA_CHUNK, block_operations, forward_operations
from minitron.models.axes import tensor_numel
from minitron.models.shape import HybridShape
from minitron.prune.laws.tiny_model import tiny_model
from minitron.prune.laws.tiny_shape import tiny_shape

TOKENS = 2 * DELTA_CHUNK  # whole chunks of transformers' scan
PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm, torch.ops.aten._grouped_mm)


def counted(shape: HybridShape) -> float:
    """Operations of matrix products for a token, as torch counts them; attention sees masked tokens, too."""
    config = {"model_type": shape.model_type, "sliding_window": shape.sliding_window or None}
    model = tiny_model(config, shape, seed=0).float()
    model.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.arange(TOKENS)[None] % shape.vocab_size, use_cache=False)
    found = counter.get_flop_counts()["Global"]
    return sum(found.get(product, 0) for product in PRODUCTS) / TOKENS


def seen_at(token: int, window: int | None) -> float:
    """Tokens that one sees; of its own half, as an integral over the sequence has it."""
    return min(token + 0.5, token + 0.5 if window is None else window)


def attention(shape: HybridShape, tokens: int) -> float:
    """Operations of attention for a token in the mean, token by token."""
    total = 0.0
    for kind in shape.hybrid_override_pattern:
        kept = shape.family.keeps.get(kind)
        if kept in ("kv", "window"):
            window = shape.sliding_window if kept == "window" else None
            total += sum(4 * shape.num_attention_heads * shape.head_dim * seen_at(one, window) for one in range(tokens))
    return total / tokens


@pytest.mark.parametrize(
    ("model_type", "pattern"),
    [
        ("qwen3_5_text", "GG"),
        ("qwen3_5_text", "GTG"),
        ("qwen3_5_moe_text", "GT"),
        ("qwen3_moe", "XTX"),
        ("granitemoehybrid", "TT"),
        ("gemma3_text", "STSS"),
        ("smollm3", "TNT"),
    ],
)
def test_products_are_those_that_torch_counts(model_type: str, pattern: str) -> None:
    shape = tiny_shape(model_type, pattern, seed=3)
    family, sizes = shape.family, shape.sizes
    specs = [spec for kind in pattern for spec in family.tensors_of(kind, sizes)]
    specs += [spec for spec in family.tensors_outside(sizes) if spec.name == family.final_norm]
    no_products = 2 * sum(tensor_numel(spec, sizes) for spec in specs if len(spec.dims) != 2)
    masked = sum(family.keeps.get(kind) in ("kv", "window") for kind in pattern)
    everything = masked * 4 * shape.num_attention_heads * shape.head_dim * TOKENS
    solved = 0
    if "G" in pattern:  # transformers solves for the corrected keys and values, where kernels multiply
        width = shape.linear_key_head_dim + shape.linear_value_head_dim
        solved = 2 * DELTA_CHUNK * shape.linear_num_value_heads * width * shape.count("G")
    ours = forward_operations(shape, TOKENS) - no_products - solved - attention(shape, TOKENS) + everything
    assert counted(shape) == pytest.approx(ours, abs=shape.head_dim + masked)  # beside them rotary angles


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("tokens", [4, 64, 1001])
def test_a_window_is_seen_as_far_as_it_reaches(window: int, tokens: int) -> None:
    shape = replace(tiny_shape("gemma3_text", "STSS", seed=3), sliding_window=window)
    alone = block_operations(shape, 2) - attention(shape, 2)
    slack = 4 * shape.num_attention_heads * shape.head_dim  # of the token at the window's edge
    assert block_operations(shape, tokens) == pytest.approx(alone + attention(shape, tokens), abs=slack / 4 + 4)
