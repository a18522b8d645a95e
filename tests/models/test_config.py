import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from minitron.models.config import config_for_shape, shape_from_config
from minitron.models.families import FAMILIES
from minitron.models.shape import HybridShape
from tests.support.models import make_config, make_dense_shape, make_moe_shape, make_tiny_shape


def config_of(shape: HybridShape) -> dict[str, object]:
    return {
        "model_type": "nemotron_h",
        "hybrid_override_pattern": shape.hybrid_override_pattern,
        **shape.config_sizes,
    }


def test_a_shape_survives_the_config_both_ways(tiny_shape: HybridShape) -> None:
    assert shape_from_config(config_for_shape(config_of(tiny_shape), tiny_shape)) == tiny_shape


@pytest.mark.parametrize(
    ("canonical", "spelling"),
    [
        ("ssm_state_size", "mamba_state_dim"),
        ("n_groups", "mamba_num_groups"),
        ("n_groups", "mamba_n_groups"),
        ("head_dim", "attention_head_dim"),
        ("conv_kernel", "mamba_d_conv"),
    ],
)
def test_every_published_spelling_is_read_and_kept(canonical: str, spelling: str) -> None:
    shape = make_tiny_shape()
    config = config_of(shape)
    config[spelling] = config.pop(canonical)
    assert shape_from_config(config) == shape
    written = config_for_shape(config, shape)
    assert written[spelling] == written[canonical] == shape.sizes[canonical]


def test_spellings_that_disagree_are_refused(tiny_shape: HybridShape) -> None:
    config = config_of(tiny_shape) | {"mamba_num_groups": 4}
    with pytest.raises(ValueError, match="spellings of n_groups .* must agree, got n_groups=2, mamba_num_groups=4"):
        shape_from_config(config)


@pytest.mark.parametrize("key", ["layers_block_type", "layer_types"])
@pytest.mark.parametrize("names", [("linear_attention", "mlp", "full_attention"), ("mamba", "mlp", "attention")])
def test_a_list_of_blocks_is_written_in_the_names_that_every_reader_knows(
    tiny_shape: HybridShape, key: str, names: tuple[str, ...]
) -> None:
    letters = dict(zip("M-*", names, strict=True))
    config = config_of(tiny_shape) | {key: [letters[letter] for letter in tiny_shape.hybrid_override_pattern]}
    del config["hybrid_override_pattern"]
    written = config_for_shape(config, tiny_shape.resized(layers=[0, 1, 2]))
    assert written[key] == ["mamba", "mlp", "attention"]
    assert ("layer_types" in written) == (key == "layer_types")
    assert written["hybrid_override_pattern"] == "M-*"  # readers of a list pass over it
    assert written["num_hidden_layers"] == 3


def test_a_source_with_the_pattern_alone_gets_no_list(tiny_shape: HybridShape) -> None:
    # transformers 5.8, vLLM 0.11 and SGLang 0.5.23 read such a source and refuse a list in the newer names.
    written = config_for_shape(config_of(tiny_shape), tiny_shape.resized(layers=[0, 1, 2]))
    assert written["hybrid_override_pattern"] == "M-*"
    assert {"layers_block_type", "layer_types"} & written.keys() == set()


def test_what_the_cut_does_not_change_is_not_changed() -> None:
    shape = make_tiny_shape(mamba_num_heads=8, mamba_head_dim=8, n_groups=8)
    config = config_of(shape) | {
        "num_hidden_layers": 8,
        "architectures": ["X"],
        "auto_map": {"AutoConfig": "c.C"},
        "x": None,
    }
    written = config_for_shape(config, shape.resized(hidden_size=16))
    assert written == config | {"hidden_size": 16}
    assert list(written) == list(config)


def test_the_converter_of_llama_cpp_is_told_a_head_dim_that_it_would_assume_wrongly(tiny_shape: HybridShape) -> None:
    inner = tiny_shape.mamba_num_heads * tiny_shape.mamba_head_dim
    assert inner % 64
    assert config_for_shape(config_of(tiny_shape), tiny_shape)["mamba_d_head"] == tiny_shape.mamba_head_dim
    even = make_tiny_shape(mamba_num_heads=8, mamba_head_dim=8)
    assert "mamba_d_head" not in config_for_shape(config_of(even), even)


def test_sglang_is_told_a_number_of_groups_that_it_would_assume_wrongly(tiny_shape: HybridShape) -> None:
    assert config_for_shape(config_of(tiny_shape), tiny_shape)["mamba_n_groups"] == tiny_shape.n_groups == 2
    eight = make_tiny_shape(n_groups=8)
    assert "mamba_n_groups" not in config_for_shape(config_of(eight), eight)


def test_experts_that_were_all_removed_leave_no_size_in_any_spelling() -> None:
    shape = make_moe_shape()
    config = config_of(shape) | {"num_local_experts": shape.n_routed_experts}
    dense = shape.resized(layers=[0, 2, 3])
    assert "E" not in dense.hybrid_override_pattern
    left = config_for_shape(config, dense)
    assert not [key for key in left if "expert" in key or "moe" in key or key in ("n_group", "topk_group")]


def test_block_spellings_that_disagree_are_refused(tiny_shape: HybridShape) -> None:
    config = config_of(tiny_shape) | {"layers_block_type": ["mamba", "mlp"]}
    with pytest.raises(ValueError, match="must agree, got hybrid_override_pattern of 8, layers_block_type of 2 blocks"):
        shape_from_config(config)


def test_another_family_is_refused() -> None:
    with pytest.raises(ValueError, match="model_type must be one of nemotron_h, llama, .*, got 'mamba'"):
        shape_from_config({"model_type": "mamba"})


@pytest.mark.parametrize(
    "shape",
    [
        make_moe_shape(),
        make_moe_shape(moe_latent_size=9),
        make_dense_shape("llama"),
        make_dense_shape("qwen3", tie_word_embeddings=1),
    ],
    ids=lambda shape: f"{shape.model_type}{shape.moe_latent_size}",
)
def test_the_configuration_that_transformers_writes_is_read_and_its_cut_is_read_by_transformers(
    tmp_path: Path, shape: HybridShape
) -> None:
    written = json.loads(make_config(shape).to_json_string(use_diff=False))
    assert shape_from_config(written) == shape
    cut = shape.resized(layers=[0, 2], intermediate_size=8, num_attention_heads=3)
    (tmp_path / "config.json").write_text(json.dumps(config_for_shape(written, cut)))
    loaded = AutoConfig.from_pretrained(tmp_path)
    for key, size in cut.config_sizes.items():
        assert getattr(loaded, key) == size
    assert loaded.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"attention_bias": True}, "attention_bias in config.json must be false for llama, got True"),
        ({"num_hidden_layers": None}, "num_hidden_layers in config.json must be a positive whole number, got None"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types must hold full_attention, got sliding_attention"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings in config.json must be true or false, got 1"),
    ],
)
def test_a_dense_configuration_that_is_not_declared_is_refused(change: dict[str, Any], fault: str) -> None:
    shape = make_dense_shape("llama")
    config = {"model_type": "llama", "num_hidden_layers": 3, **shape.config_sizes}
    assert shape_from_config(config) == shape
    with pytest.raises(ValueError, match=fault):
        shape_from_config(config | change)


def test_sizes_that_a_dense_configuration_leaves_out_are_those_that_transformers_takes() -> None:
    config = {"num_hidden_layers": 3, "vocab_size": 7, "hidden_size": 24, "intermediate_size": 5}
    config["num_attention_heads"] = 6
    for model_type in ("llama", "qwen3"):
        shape = shape_from_config({"model_type": model_type, "num_key_value_heads": 6, **config})
        taken = AutoConfig.for_model(model_type, **config)
        assert shape.head_dim == taken.head_dim


def test_what_some_readers_cannot_read_or_misread_is_left_out(tiny_shape: HybridShape, tmp_path: Path) -> None:
    written = json.loads(make_config(tiny_shape).to_json_string(use_diff=False))
    assert "num_experts_per_tok" in written
    assert "__float__" in json.dumps(written["time_step_limit"])
    config = config_for_shape(written, tiny_shape)
    assert "num_experts_per_tok" not in config
    assert "time_step_limit" not in config
    assert json.loads(json.dumps(config, allow_nan=False)) == config
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert tuple(AutoConfig.from_pretrained(tmp_path).time_step_limit) == (0.0, float("inf"))
    limited = config_for_shape({**written, "time_step_limit": [0.0, 1.0]}, tiny_shape)
    assert limited["time_step_limit"] == [0.0, 1.0]
    assert "num_experts_per_tok" in config_for_shape(config_of(make_moe_shape()), make_moe_shape())


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_size_that_is_left_out_is_what_transformers_takes(model_type: str) -> None:
    family, config = FAMILIES[model_type], AutoConfig.for_model(model_type)
    theirs = {
        name: next((getattr(config, key) for key in keys if getattr(config, key, None) is not None), None)
        for name, keys in family.config_keys.items()
    }
    # A mistral must say whether it has windows; a model without latent experts has no size of them.
    known = {name: size for name, size in theirs.items() if size is not None and name != "sliding_window"}
    for name in set(family.defaults) & set(known):
        assert family.defaults[name](known) == known[name], name


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            {
                "model_type": "olmo2",
                "vocab_size": 9,
                "hidden_size": 8,
                "intermediate_size": 9,
                "num_attention_heads": 2,
            },
            "nearest is llama: the keys are its own, the modeling code is another",
        ),
        (
            {
                "model_type": "falcon_h1",
                "vocab_size": 9,
                "hidden_size": 8,
                "intermediate_size": 9,
                "num_attention_heads": 2,
                "num_hidden_layers": 2,
                "mamba_n_heads": 4,
                "mamba_d_head": 4,
                "mamba_n_groups": 1,
                "mamba_d_state": 4,
                "mamba_d_conv": 4,
                "mamba_d_ssm_dim": 16,
            },
            "nearest is bamba: it does not know mamba_d_ssm_dim",
        ),
    ],
)
def test_a_family_that_is_not_declared_is_refused_with_what_differs(config: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=f"model_type must be one of .*got '{config['model_type']}'; {told}"):
        shape_from_config(config)
