"""Configurations as they are published come out as they are, and those of students in the same spelling."""

from typing import Any

import pytest

from minitron.models.config import config_for_shape, shape_from_config
from tests.engines.published import PUBLISHED

# Blocks that are kept of the first eight, or of as many as two whole intervals have.
SOME = (0, 2, 3, 5, 7)
NOT_GIVEN = object()
SIZES: dict[str, dict[str, int]] = {
    "mistral": {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 4},
    "qwen2": {"hidden_size": 1792, "num_attention_heads": 14, "num_key_value_heads": 2},
    "smollm3": {"hidden_size": 1024, "intermediate_size": 8192},
    "gemma3_text": {"hidden_size": 768, "intermediate_size": 4096},
    "granitemoehybrid": {"hidden_size": 2048, "mamba_num_heads": 64, "n_routed_experts": 36},
    "bamba": {"hidden_size": 2048, "mamba_num_heads": 64},
    "qwen3_moe": {"n_routed_experts": 96, "moe_intermediate_size": 512},
    "qwen3_5_text": {"linear_num_key_heads": 8, "linear_num_value_heads": 16, "num_key_value_heads": 2,
                     "num_attention_heads": 8},
    "qwen3_5_moe_text": {"n_routed_experts": 128, "moe_shared_expert_intermediate_size": 256},
}  # fmt: skip


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Key -> its new value, of those that are another or gone."""
    return {
        key: after.get(key, NOT_GIVEN)
        for key in {**before, **after}
        if before.get(key, NOT_GIVEN) != after.get(key, NOT_GIVEN)
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_comes_out_as_it_is(name: str) -> None:
    config = dict(PUBLISHED[name])
    assert list(config_for_shape(config, shape_from_config(config)).items()) == list(config.items())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_cut_in_width_changes_the_sizes_that_are_cut_and_nothing_else(name: str) -> None:
    config = dict(PUBLISHED[name])
    shape = shape_from_config(config)
    target = shape.resized(**SIZES[name])
    # What transformers would take for a head's channels is another number once the hidden size is cut alone.
    spelt = {"head_dim": shape.head_dim} if name in ("smollm3", "granitemoehybrid", "bamba") else {}
    spelt |= {shape.family.config_keys[axis][0]: size for axis, size in SIZES[name].items()}
    written = config_for_shape(config, target)
    assert changes(config, written) == spelt
    assert shape_from_config(written) == target


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("how", ["some blocks", "whole intervals"])
def test_a_cut_in_depth_changes_what_says_something_of_every_block(name: str, how: str) -> None:
    config = dict(PUBLISHED[name])
    shape = shape_from_config(config)
    layers = SOME if how == "some blocks" else tuple(range(12))
    target = shape.resized(layers=layers)
    written = config_for_shape(config, target)
    assert shape_from_config(written) == target
    lists = {
        key: [config[key][layer] for layer in layers] for key in ("layer_types", "no_rope_layers") if key in config
    }
    expected: dict[str, Any] = {"num_hidden_layers": len(layers), **lists}
    if name == "bamba":
        expected["attn_layer_indices"] = [9] if how == "whole intervals" else []
    if name == "gemma3_text" and how == "some blocks":  # no interval gives what is left
        expected |= {"layer_types": _windows("SSSTS"), "sliding_window_pattern": NOT_GIVEN}
    if name in ("qwen3_5_text", "qwen3_5_moe_text") and how == "some blocks":
        expected["full_attention_interval"] = NOT_GIVEN
    assert changes(config, written) == expected


def _windows(pattern: str) -> list[str]:
    return [{"S": "sliding_attention", "T": "full_attention"}[letter] for letter in pattern]


@pytest.mark.parametrize(
    ("name", "says", "pattern", "left"),
    [
        # layers 1, 3 and 5 are dense: by a list, by a step, and by both
        ("qwen3_moe", {"num_hidden_layers": 8, "mlp_only_layers": [1, 3, 5]}, "XTXTXTXX", {"mlp_only_layers": [2, 3]}),
        (
            "qwen3_moe",
            {"num_hidden_layers": 8, "decoder_sparse_step": 2},
            "TXTXTXTX",
            {"mlp_only_layers": [0, 1], "decoder_sparse_step": 1},
        ),
        (
            "qwen3_moe",
            {"num_hidden_layers": 8, "decoder_sparse_step": 2, "mlp_only_layers": [3]},
            "TXTTTXTX",
            {"mlp_only_layers": [0, 1, 2], "decoder_sparse_step": 1},
        ),
        (
            "smollm3",
            {"num_hidden_layers": 8, "no_rope_layers": None, "layer_types": None},
            "TTTNTTTN",
            {"no_rope_layers": [1, 1, 0, 1, 0], "layer_types": ["full_attention"] * 5},
        ),
        (
            "granitemoehybrid",
            {"num_hidden_layers": 8, "layer_types": [*["linear_attention"] * 7, "full_attention"]},
            "HHHHHHHT",
            {"layer_types": [*["mamba"] * 4, "attention"]},
        ),
        ("mistral", {"num_hidden_layers": 8, "sliding_window": None}, "TTTTTTTT", {}),
    ],
)
def test_other_ways_to_tell_blocks_apart(name: str, says: dict[str, Any], pattern: str, left: dict[str, Any]) -> None:
    config = {**PUBLISHED[name], **says}
    shape = shape_from_config(config)
    assert shape.hybrid_override_pattern == pattern
    written = config_for_shape(config, shape.resized(layers=SOME))
    assert changes(config, written) == {"num_hidden_layers": 5, **left}
    assert shape_from_config(written).hybrid_override_pattern == "".join(pattern[layer] for layer in SOME)
