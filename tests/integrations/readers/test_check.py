"""What each reader takes and refuses, against cases read off their sources."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from minitron.errors import MinitronError
from minitron.estimate.serving.reader_names import NEWEST, READERS
from minitron.estimate.serving.readers import SHAPE_RULES
from minitron.integrations.readers.check import READERS as DECLARED
from minitron.integrations.readers.check import check
from minitron.models.config import shape_from_config
from minitron.models.shape import HybridShape
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_model, make_tiny_shape
from tests.support.served import served_config

# All dims distinct, and such that every reader takes them; 8 GPUs split what is split, but for the KV heads of 2.
SERVED = make_tiny_shape(
    vocab_size=640,
    hidden_size=88,
    intermediate_size=48,
    num_attention_heads=24,
    num_key_value_heads=2,
    head_dim=20,
    mamba_num_heads=32,
    mamba_head_dim=6,
    n_groups=8,
    ssm_state_size=64,
    hybrid_override_pattern="M-*MM-*",
)
EXPERTS = make_moe_shape(
    hybrid_override_pattern="ME*EM",
    vocab_size=640,
    mamba_num_heads=32,
    mamba_head_dim=6,
    n_groups=8,
    ssm_state_size=64,
    num_key_value_heads=2,
    moe_intermediate_size=40,
    moe_shared_expert_intermediate_size=56,
)
DENSE = {name: make_dense_shape(name, vocab_size=640) for name in ("llama", "qwen3")}
OLDER = ["mamba", "mlp", "attention", "mamba", "mamba", "mlp", "attention"]
NEWER = ["linear_attention", "mlp", "full_attention", "linear_attention", "linear_attention", "mlp", "full_attention"]
GONE = object()
METHOD = "quantization_config.quant_method"


def changed(shape: HybridShape, changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (served_config(shape) | changes).items() if value is not GONE}


def refused(config: Mapping[str, Any], reader: str, gpus: int = 1) -> list[str]:
    return [refusal.key for refusal in check(config, shape_from_config(config), reader, gpus)]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("shape", [SERVED, EXPERTS, *DENSE.values()], ids=lambda shape: shape.hybrid_override_pattern)
def test_every_reader_takes_a_configuration_with_the_keys_that_it_needs(shape: HybridShape, reader: str) -> None:
    if shape.model_type not in DECLARED[reader].families:
        assert refused(served_config(shape), reader) == ["model_type"]
    elif reader == "vllm@0.11" and shape.count("E"):
        assert refused(served_config(shape), reader) == ["hybrid_override_pattern"]
    else:
        assert refused(served_config(shape), reader) == []


@pytest.mark.parametrize(
    ("changes", "refusals"),
    [
        ({"layers_block_type": OLDER}, {"vllm@0.11": ["layers_block_type"]}),
        (
            {"layers_block_type": NEWER},
            {name: ["layers_block_type"] for name in ("sglang", "transformers@5.12", "vllm@0.11")},
        ),
        (
            {"layers_block_type": NEWER, "hybrid_override_pattern": GONE},
            {
                "sglang": ["layers_block_type"],
                "llamacpp": ["hybrid_override_pattern"],
                "transformers@5.12": ["layers_block_type"],
                "vllm@0.11": ["layers_block_type", "hybrid_override_pattern"],
            },
        ),
        (
            {"layer_types": OLDER, "hybrid_override_pattern": GONE},
            {
                "sglang": ["hybrid_override_pattern", "layer_types"],
                "llamacpp": ["hybrid_override_pattern", "hybrid_override_pattern"],
                "vllm@0.11": ["hybrid_override_pattern"],
            },
        ),
        ({"num_hidden_layers": GONE}, {"llamacpp": ["num_hidden_layers"], "vllm@0.11": ["hybrid_override_pattern"]}),
        ({"num_experts_per_tok": 2}, {"llamacpp": ["num_experts_per_tok"]}),
        (
            {"architectures": ["Other"]},
            {name: ["architectures"] for name in READERS if name[:4] not in ("mlx", "tran")},
        ),
        ({"architectures": GONE}, {name: ["architectures"] for name in READERS if name[:4] not in ("mlx", "tran")}),
        ({"chunk_size": 96}, {name: ["chunk_size"] for name in ("vllm", "sglang", "tensorrt-llm", "vllm@0.11")}),
        ({"layer_norm_epsilon": GONE}, {name: ["layer_norm_epsilon"] for name in ("mlx", "llamacpp")}),
        ({"mlp_bias": GONE}, {"mlx": ["mlp_bias"]}),
        ({"auto_map": GONE}, {"vllm@0.11": ["auto_map"]}),
        # The other spelling of a size: who does not know it takes a default, or none.
        (
            {"head_dim": GONE, "attention_head_dim": 20},
            {name: ["head_dim"] for name in READERS if name != "llamacpp"},
        ),
        ({"n_groups": GONE}, {"sglang": ["n_groups"], "mlx": ["n_groups"]}),
        (
            {"conv_kernel": GONE, "mamba_d_conv": 3},
            {"mlx": ["conv_kernel"]},
        ),
        (
            {"ssm_state_size": GONE, "mamba_state_dim": 64},
            {name: ["ssm_state_size"] for name in READERS if name != "llamacpp"},
        ),
        *(
            (
                {"quantization_config": {"quant_method": "modelopt", "quant_algo": algorithm}},
                {"vllm": ["quantization_config.quant_algo"], "mlx": [METHOD], "transformers": [METHOD]},
            )
            for algorithm in ("W8A8_SQ_PER_CHANNEL", "W4A16_AWQ")
        ),
        *(
            (
                {"quantization_config": {"quant_method": "modelopt", "quant_algo": algorithm}},
                {"mlx": [METHOD], "transformers": [METHOD]},
            )
            for algorithm in ("FP8", "NVFP4")
        ),
        *(
            ({"quantization_config": {"quant_method": "compressed-tensors", "format": name}}, {"mlx": [METHOD]})
            for name in ("int-quantized", "pack-quantized")
        ),
    ],
)
def test_each_reader_refuses_the_keys_that_it_does_not_read(
    changes: dict[str, Any], refusals: dict[str, list[str]]
) -> None:
    config = changed(SERVED, changes)
    assert {name: keys for name in READERS if (keys := refused(config, name))} == refusals


@pytest.mark.parametrize(
    ("algorithm", "mend"), [("W8A8_SQ_PER_CHANNEL", "--format w8a8"), ("W4A16_AWQ", "--format w4a16")]
)
def test_what_vllm_has_no_kernels_for_is_mended_by_another_format(algorithm: str, mend: str) -> None:
    config = changed(SERVED, {"quantization_config": {"quant_method": "modelopt", "quant_algo": algorithm}})
    (refusal,) = check(config, SERVED, "vllm")
    assert refusal.rule.startswith("be one of FP8, FP8_PER_CHANNEL_PER_TOKEN")
    assert (refusal.found, refusal.mend) == (f"got {algorithm}", f"quantize with {mend}")


def test_groups_that_sglang_knows_by_another_name_are_refused() -> None:
    few = changed(SERVED.resized(), {})
    few |= {"n_groups": 4, "mamba_n_groups": GONE}
    config = {key: value for key, value in few.items() if value is not GONE}
    assert refused(config, "sglang") == ["mamba_n_groups"]
    found = check(config, shape_from_config(config), "sglang")
    assert "the reader takes 8" in found[0].found
    assert found[0].mend == 'write "mamba_n_groups": 4'


@pytest.mark.parametrize(
    ("sizes", "refusals"),
    [
        ({"mamba_num_heads": 8, "mamba_head_dim": 5}, {"llamacpp": ["mamba_num_heads"]}),
        ({"vocab_size": 639}, {"llamacpp": ["vocab_size"]}),
        ({"ssm_state_size": 48}, {"mlx": ["ssm_state_size"]}),
        (
            {"hybrid_override_pattern": "M-M"},
            {name: ["hybrid_override_pattern"] for name in ("mlx", "transformers")},
        ),
        ({"hybrid_override_pattern": "*-"}, {"mlx": ["hybrid_override_pattern"]}),
    ],
)
def test_each_reader_refuses_the_shapes_that_it_cannot_load(sizes: dict[str, Any], refusals: dict[str, Any]) -> None:
    shape = make_tiny_shape(**({**SERVED.sizes, "hybrid_override_pattern": "M-*MM-*"} | sizes))
    assert {name: keys for name in READERS if (keys := refused(served_config(shape), name))} == refusals


def test_the_converter_of_llama_cpp_goes_by_mamba_d_head_where_there_is_one() -> None:
    config = changed(SERVED, {"mamba_num_heads": 8, "mamba_head_dim": 5})
    (refusal,) = check(config, shape_from_config(config), "llamacpp")
    assert refusal.mend.startswith('write "mamba_d_head": 5')
    assert refused(config | {"mamba_d_head": 5}, "llamacpp") == []


def test_the_converter_of_llama_cpp_takes_mlps_or_experts() -> None:
    both = make_moe_shape(vocab_size=640, mamba_num_heads=32, mamba_head_dim=6)
    assert refused(served_config(both), "llamacpp") == ["hybrid_override_pattern"]


# Reader -> numbers of GPUs up to 12 that it splits SERVED and EXPERTS over, by hand.
SPLITS = {
    "vllm": ((1, 2, 4, 8), (1, 2)),
    "sglang": ((1, 2, 4, 8), (1, 2)),
    "tensorrt-llm": ((1, 2, 4, 8), (1, 2)),
    "mlx": ((1,), (1,)),
    "llamacpp": (tuple(range(1, 13)), tuple(range(1, 13))),
    "vllm@0.11": ((1, 2, 4, 8), ()),
}


@pytest.mark.parametrize("reader", SPLITS)
def test_readers_split_what_their_heads_groups_and_neurons_allow(reader: str) -> None:
    for shape, splits in zip((SERVED, EXPERTS), SPLITS[reader], strict=True):
        assert tuple(gpus for gpus in range(1, 13) if not refused(served_config(shape), reader, gpus)) == splits


@pytest.mark.parametrize(
    ("reader", "sizes", "gpus", "keys"),
    [
        ("vllm", {"num_attention_heads": 18}, 4, ["num_attention_heads"]),
        ("vllm", {"num_attention_heads": 24, "num_key_value_heads": 3}, 4, ["num_key_value_heads"]),
        ("vllm", {"num_key_value_heads": 1}, 4, []),
        ("vllm", {"intermediate_size": 50}, 4, ["intermediate_size"]),
        ("vllm", {"mamba_num_heads": 30, "n_groups": 2}, 4, ["mamba_num_heads", "n_groups"]),
        ("vllm", {"mamba_num_heads": 36, "n_groups": 1}, 4, []),
        ("vllm", {"mamba_num_heads": 36, "n_groups": 2}, 4, ["n_groups"]),
        ("tensorrt-llm", {"mamba_num_heads": 36, "n_groups": 2}, 4, []),
        ("tensorrt-llm", {"mamba_num_heads": 36, "n_groups": 3}, 4, ["n_groups"]),
        ("tensorrt-llm", {"mamba_num_heads": 24, "n_groups": 3}, 3, ["tensor_parallel"]),
        ("vllm", {"vocab_size": 576, "mamba_num_heads": 36, "n_groups": 3}, 3, []),
        ("vllm", {"vocab_size": 600, "mamba_num_heads": 36, "n_groups": 3}, 3, ["vocab_size"]),
    ],
)
def test_what_does_not_split_is_named(reader: str, sizes: dict[str, int], gpus: int, keys: list[str]) -> None:
    # 3 splits 24 heads and 48 neurons; one KV head is repeated.
    base = {**SERVED.sizes, "num_key_value_heads": 1 if gpus == 3 else 2, "hybrid_override_pattern": "M-*MM-*"}
    shape = make_tiny_shape(**(base | sizes))
    assert refused(served_config(shape), reader, gpus) == keys


def test_a_refusal_says_the_nearest_sizes_and_the_numbers_of_gpus_that_hold() -> None:
    shape = SERVED.resized(intermediate_size=42)
    found = check(served_config(shape), shape, "vllm", 4)
    assert [refusal.key for refusal in found] == ["intermediate_size"]
    assert found[0].mend == "nearest: 40 or 44, or tensor_parallel=1|2"
    assert str(found[0]) == (
        "intermediate_size must be a multiple of tensor_parallel=4, got 42; nearest: 40 or 44, or tensor_parallel=1|2 "
        "(vllm 0.33.0, model_executor/layers/linear.py)"
    )


def test_the_nearest_mamba_heads_keep_to_their_groups() -> None:
    shape = make_tiny_shape(**{**SERVED.sizes, "mamba_num_heads": 36, "n_groups": 6, "hybrid_override_pattern": "M*"})
    heads, groups = check(served_config(shape), shape, "vllm", 8)
    assert (heads.key, groups.key) == ("mamba_num_heads", "n_groups")
    assert heads.mend.startswith("nearest: 24 or 48")


@pytest.mark.parametrize(
    ("model_type", "changes", "keys"),
    [
        ("llama", {"rope_theta": GONE, "rope_parameters": {"rope_theta": 500000.0}}, ["rope_theta"]),
        ("llama", {"rope_theta": GONE, "rope_parameters": {"rope_theta": 10000.0}}, []),
        ("llama", {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3"}}, ["rope_scaling"]),
        ("llama", {"tie_word_embeddings": GONE}, ["tie_word_embeddings"]),
        ("qwen3", {"tie_word_embeddings": GONE}, ["tie_word_embeddings"]),
        ("qwen3", {"rope_theta": GONE, "rope_parameters": {"rope_theta": 500000.0}}, []),
        ("qwen3", {"rope_theta": GONE}, ["rope_theta"]),
    ],
)
def test_mlx_lm_finds_the_base_of_rotary_positions_and_the_tie_where_it_looks(
    model_type: str, changes: dict[str, Any], keys: list[str]
) -> None:
    assert refused(changed(DENSE[model_type], changes), "mlx") == keys


def test_a_model_without_attention_blocks_does_not_generate_in_transformers() -> None:
    model = make_tiny_model(make_tiny_shape(hybrid_override_pattern="M-M"))
    with pytest.raises(ValueError, match="get_seq_length"):
        model.generate(torch.tensor([[5, 6]]), max_new_tokens=2, do_sample=False)


@pytest.mark.parametrize("kinds", ["*-*", "M*"])
def test_a_model_with_attention_blocks_generates_in_transformers(kinds: str) -> None:
    model = make_tiny_model(make_tiny_shape(hybrid_override_pattern=kinds))
    found = model.generate(torch.tensor([[5, 6]]), max_new_tokens=2, min_new_tokens=2, do_sample=False)
    assert found.shape == (1, 4)


def test_a_reader_that_is_not_there_is_refused() -> None:
    with pytest.raises(MinitronError, match=r"a reader must be one of vllm, sglang, .*, got 'vllmm'"):
        check(served_config(SERVED), SERVED, "vllmm")


def test_every_reader_has_a_declaration_and_rules_about_shapes_with_a_version_in_their_source() -> None:
    assert tuple(DECLARED) == READERS == tuple(SHAPE_RULES)
    assert set(NEWEST) == {"vllm", "sglang", "llamacpp", "tensorrt-llm", "mlx", "transformers"}
    sources = [rule.source for rules in SHAPE_RULES.values() for rule in rules]
    sources += [family.source for reader in DECLARED.values() for family in reader.families.values()]
    version = re.compile(r"\d+\.\d+\.\d+|\b[0-9a-f]{7}\b")
    assert [source for source in sources if not version.search(source)] == []


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("shape", [SERVED, DENSE["llama"]], ids=["nemotron_h", "llama"])
def test_ffn_widths_by_block_are_taken_by_those_that_have_classes_for_them(reader: str, shape: HybridShape) -> None:
    widths = [8 * number for number in range(1, 1 + len(shape.ffn_layers))]
    mean = sum(widths) // len(widths)
    varied = replace(shape, intermediate_size=mean, block_widths=tuple(widths))
    config = served_config(replace(varied, block_widths=())) | {"intermediate_size": widths}
    taken = ("vllm", "transformers") if shape is SERVED else ("transformers",)
    assert shape_from_config(config) == varied
    assert bool(refused(config, reader)) is (reader not in taken)
