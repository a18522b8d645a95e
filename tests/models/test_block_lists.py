"""What configurations say of every block, in each family: read as transformers reads it, and right after a cut."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from minitron.models.config import config_for_shape, shape_from_config
from minitron.models.families import FAMILIES
from minitron.models.shape import HybridShape
from tests.support.models import block_lists, config_json, make_config
from tests.support.strategies import plans, shapes

# Family -> the key by which transformers makes a list that is not given, and the list.
RULES = {
    "gemma3_text": ("sliding_window_pattern", "layer_types"),
    "qwen3_5_text": ("full_attention_interval", "layer_types"),
    "qwen3_5_moe_text": ("full_attention_interval", "layer_types"),
    "smollm3": ("no_rope_layer_interval", "no_rope_layers"),
    "qwen3_moe": ("decoder_sparse_step", "mlp_only_layers"),
}


def read_by_transformers(config: dict[str, Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        return AutoConfig.from_pretrained(folder)


def letters_of(loaded: Any) -> str:
    """The kinds of block that transformers builds, by its modeling code."""
    layers = range(loaded.num_hidden_layers)
    match loaded.model_type:
        case "smollm3":
            return "".join("T" if loaded.no_rope_layers[layer] else "N" for layer in layers)
        case "qwen3_moe":
            sparse = [
                layer not in loaded.mlp_only_layers and (layer + 1) % loaded.decoder_sparse_step == 0
                for layer in layers
            ]
            return "".join("X" if each else "T" for each in sparse)
        case "mistral":
            return ("T" if loaded.sliding_window is None else "S") * loaded.num_hidden_layers
        case "llama" | "qwen2" | "qwen3":
            return "T" * loaded.num_hidden_layers
    if loaded.model_type == "nemotron_h":
        names = {"mamba": "M", "linear_attention": "M", "mlp": "-", "attention": "*", "full_attention": "*", "moe": "E"}
    else:
        linear = "H" if loaded.model_type in ("granitemoehybrid", "bamba") else "G"
        names = {"full_attention": "T", "sliding_attention": "S", "linear_attention": linear}
    types = loaded.layer_types if loaded.model_type != "nemotron_h" else loaded.layers_block_type
    return "".join(names[each] for each in types)


def assert_read(config: dict[str, Any], shape: HybridShape) -> None:
    """transformers reads this shape."""
    loaded = read_by_transformers(config)
    for key, size in shape.config_sizes.items():
        assert getattr(loaded, key) == size, key
    for key in shape.family.switches:
        assert getattr(loaded, key) == bool(shape.sizes[key])
    assert letters_of(loaded) == shape.hybrid_override_pattern
    if shape.model_type != "nemotron_h":
        assert {key: getattr(loaded, key) for key in block_lists(shape)} == block_lists(shape)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
@settings(max_examples=10)
@given(data=st.data())
def test_the_configuration_that_transformers_writes_is_read_cut_and_read_again(model_type: str, data: Any) -> None:
    shape = data.draw(shapes(model_types=[model_type], every_kind=True))
    target = data.draw(plans(shape)).target
    written = config_json(make_config(shape))
    assert_read(config_for_shape(written, shape), shape)
    assert shape_from_config(written) == shape
    cut = config_for_shape(written, target)
    assert shape_from_config(cut) == target
    assert_read(cut, target)


@pytest.mark.parametrize("model_type", sorted(RULES))
@settings(max_examples=25)
@given(data=st.data(), every=st.integers(1, 5), blocks=st.integers(1, 12))
def test_blocks_that_a_rule_makes_are_read_as_transformers_does_and_listed_where_a_cut_breaks_the_rule(
    model_type: str, data: Any, every: int, blocks: int
) -> None:
    rule, key = RULES[model_type]
    pattern = "".join(FAMILIES[model_type].block_kinds)
    config = config_json(make_config(data.draw(shapes(model_types=[model_type], every_kind=True))))
    config |= {rule: every, "num_hidden_layers": blocks}
    config = {name: value for name, value in config.items() if name not in (key, "layer_types")}
    letters = letters_of(read_by_transformers(config))
    shape = shape_from_config(config)
    assert set(letters) <= set(pattern)
    assert shape.hybrid_override_pattern == letters
    layers = sorted(data.draw(st.sets(st.integers(0, blocks - 1), min_size=1)))
    target = shape.resized(layers=layers)
    cut = config_for_shape(config, target)
    assert target.hybrid_override_pattern == "".join(letters[layer] for layer in layers)
    assert letters_of(read_by_transformers(cut)) == target.hybrid_override_pattern
    assert shape_from_config(cut) == target
