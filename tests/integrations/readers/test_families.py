"""What readers take of the families of published configurations, against cases read off their sources."""

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pytest

from minitron.estimate.serving.reader_names import NEWEST, ReaderName
from minitron.estimate.serving.readers import LOOKED_AT, keeps_to_readers
from minitron.estimate.serving.shape_rules import Serving
from minitron.integrations.readers.check import READERS, check
from minitron.models.config import config_for_shape, shape_from_config
from minitron.models.families import FAMILIES
from minitron.models.shape import HybridShape
from tests.engines.published import PUBLISHED

ALL = ("vllm", "sglang", "llamacpp", "mlx", "transformers")
# Published configuration -> reader -> keys that it refuses it for.
REFUSALS: Mapping[str, Mapping[str, list[str]]] = {
    "mistral": {name: ["num_hidden_layers"] for name in ("sglang", "llamacpp", "mlx")},
    "qwen2": {},
    "smollm3": {"sglang": ["model_type"]},
    "gemma3_text": {},
    "granitemoehybrid": {},
    "bamba": {name: ["model_type"] for name in ("vllm", "sglang", "llamacpp", "mlx")},
    "qwen3_moe": {},
    "qwen3_5_text": {name: ["model_type"] for name in ("llamacpp", "mlx")},
    "qwen3_5_moe_text": {name: ["model_type"] for name in ("llamacpp", "mlx")},
}


def refused(config: Mapping[str, Any], shape: HybridShape, reader: str, gpus: int = 1) -> list[str]:
    return [refusal.key for refusal in check(config, shape, reader, gpus)]


def cut(name: str, says: Mapping[str, Any] | None = None, **changes: Any) -> tuple[Mapping[str, Any], HybridShape]:
    """The student of a published configuration: its own one, and its shape."""
    config = {**PUBLISHED[name], **(says or {})}
    target = shape_from_config(config).resized(**changes)
    return config_for_shape(config, target), target


@pytest.mark.parametrize("reader", get_args(ReaderName))
def test_the_search_and_the_check_know_the_same_families(reader: ReaderName) -> None:
    assert set(LOOKED_AT[reader]) == set(READERS[reader].families)
    for name, config in PUBLISHED.items():
        shape = shape_from_config(config)
        is_known = name in LOOKED_AT[reader]
        assert ("model_type" in refused(config, shape, reader)) == (not is_known)
        if not is_known:
            serving = Serving(readers=(reader,))
            assert not keeps_to_readers(name, shape.counts, shape.sizes, serving)
    assert set(PUBLISHED) | {"nemotron_h", "llama", "qwen3"} == set(FAMILIES)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("reader", ALL)
def test_a_published_configuration_is_taken_but_for_what_is_known(name: str, reader: str) -> None:
    config = PUBLISHED[name]
    assert refused(config, shape_from_config(config), reader) == REFUSALS[name].get(reader, [])


@pytest.mark.parametrize("reader", NEWEST)
def test_mistral_without_a_window_is_taken_as_llama_is(reader: str) -> None:
    config, shape = cut("mistral", {"sliding_window": None})
    assert refused(config, shape, reader) == (["model_type"] if reader == "tensorrt-llm" else [])


@pytest.mark.parametrize(
    ("name", "sizes", "refusing"),
    [
        ("qwen2", {"hidden_size": 3072}, ["vllm", "llamacpp", "mlx"]),
        ("qwen2", {"num_attention_heads": 24}, ["vllm", "llamacpp", "mlx"]),
        ("qwen2", {"hidden_size": 3072, "num_attention_heads": 24}, []),
        ("granitemoehybrid", {"num_attention_heads": 16}, ["vllm", "sglang", "llamacpp", "mlx"]),
        ("granitemoehybrid", {"hidden_size": 2048, "mamba_num_heads": 64}, ["vllm", "sglang", "llamacpp", "mlx"]),
        (
            "granitemoehybrid",
            {"hidden_size": 2048, "mamba_num_heads": 64, "num_attention_heads": 16, "num_key_value_heads": 4},
            [],
        ),
        ("qwen3_moe", {"hidden_size": 1536}, []),
        ("smollm3", {"num_attention_heads": 12}, []),
        ("qwen3_5_text", {"num_attention_heads": 8}, []),
    ],
)
def test_heads_fall_with_the_hidden_size_where_a_reader_takes_their_channels_from_it(
    name: str, sizes: dict[str, int], refusing: list[str]
) -> None:
    config, shape = cut(name, **sizes)
    known = [reader for reader in ALL if name in LOOKED_AT[reader]]  # type: ignore[index]
    assert [reader for reader in known if "num_attention_heads" in refused(config, shape, reader)] == refusing
    assert [reader for reader in known if refused(config, shape, reader)] == refusing


def test_mamba_falls_with_the_hidden_size_for_llama_cpp() -> None:
    heads = {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 4}
    for mamba, refusing in (({}, ["llamacpp"]), ({"mamba_num_heads": 64}, [])):
        config, shape = cut("granitemoehybrid", **heads, **mamba)
        assert [reader for reader in ALL if "mamba_num_heads" in refused(config, shape, reader)] == refusing


def test_a_search_leaves_out_what_a_reader_would_read_otherwise() -> None:
    shape = shape_from_config(PUBLISHED["qwen2"])
    hidden, heads = np.array([[3584], [3072]]), np.array([[28, 24, 20]])
    sizes = {**shape.sizes, "hidden_size": hidden, "num_attention_heads": heads}
    kept = keeps_to_readers("qwen2", shape.counts, sizes, Serving(readers=("vllm", "sglang")))
    assert kept.tolist() == [[True, False, False], [False, True, False]]
    assert keeps_to_readers("qwen2", shape.counts, sizes, Serving(readers=("sglang",))).all()


@pytest.mark.parametrize(
    ("name", "says", "layers", "refusing"),
    [
        # Gemma 3's layers that attend to everything, at each sixth place
        ("gemma3_text", {}, range(18), []),
        ("gemma3_text", {}, [*range(5), *range(6, 20)], ["llamacpp", "mlx"]),
        ("gemma3_text", {"sliding_window_pattern": 4}, range(12), ["llamacpp"]),
        # SmolLM3's without positions, at each fourth
        ("smollm3", {}, range(24), []),
        ("smollm3", {}, [0, 1, 3, 4, 5, 7], ["llamacpp"]),
        # dense layers among Qwen3-MoE's
        ("qwen3_moe", {"mlp_only_layers": [0]}, range(24), ["sglang", "llamacpp"]),
        ("qwen3_moe", {"mlp_only_layers": [0]}, range(1, 24), []),
        ("granitemoehybrid", {}, [0, 3, 9, 10, 19], []),
    ],
)
def test_a_cut_in_depth_keeps_to_the_intervals_that_a_reader_knows(
    name: str, says: Mapping[str, Any], layers: Any, refusing: list[str]
) -> None:
    config, shape = cut(name, says, layers=list(layers))
    known = [reader for reader in ALL if name in LOOKED_AT[reader]]  # type: ignore[index]
    assert [reader for reader in known if refused(config, shape, reader)] == refusing


@pytest.mark.parametrize(
    ("name", "says", "reader", "keys"),
    [
        ("granitemoehybrid", {"layer_types": ["linear_attention", "full_attention"] * 20}, "vllm", []),
        ("granitemoehybrid", {"layer_types": ["linear_attention", "full_attention"] * 20}, "mlx", ["layer_types"]),
        ("granitemoehybrid", {"layer_types": ["linear_attention", "full_attention"] * 20}, "llamacpp", ["layer_types"]),
        ("granitemoehybrid", {"mamba_chunk_size": 96}, "vllm", ["mamba_chunk_size"]),
        ("granitemoehybrid", {"mamba_chunk_size": 96}, "sglang", ["mamba_chunk_size"]),
        ("granitemoehybrid", {"logits_scaling": None}, "mlx", ["logits_scaling"]),
        ("gemma3_text", {"tie_word_embeddings": False}, "llamacpp", ["tie_word_embeddings"]),
        ("qwen2", {"architectures": ["Other"]}, "vllm", ["architectures"]),
        ("qwen2", {"rope_theta": None, "rope_parameters": {"rope_theta": 10000.0}}, "mlx", ["rope_theta"]),
        ("qwen2", {"rope_theta": None, "rope_parameters": {"rope_theta": 1000000.0}}, "mlx", []),
        (
            "gemma3_text",
            {"rope_theta": None, "rope_parameters": {"full_attention": {"rope_theta": 500.0}}},
            "mlx",
            ["rope_theta"],
        ),
        ("qwen3_moe", {"rope_theta": None, "rope_parameters": {"rope_theta": 1000000.0}}, "mlx", ["rope_theta"]),
    ],
)
def test_keys_that_a_reader_does_not_find_are_named(
    name: str, says: Mapping[str, Any], reader: str, keys: list[str]
) -> None:
    config = {key: value for key, value in {**PUBLISHED[name], **says}.items() if value is not None}
    assert refused(config, shape_from_config(config), reader) == keys


@pytest.mark.parametrize(
    ("name", "gpus", "keys"),
    [
        ("granitemoehybrid", 8, []),
        ("granitemoehybrid", 12, ["num_attention_heads", "num_key_value_heads", "mamba_num_heads", "vocab_size"]),
        ("qwen3_moe", 8, []),
        ("qwen3_moe", 32, []),
        ("qwen3_5_text", 16, []),
        ("qwen3_5_text", 32, ["num_attention_heads", "linear_num_key_heads"]),
        ("qwen2", 4, []),
        ("qwen2", 8, ["num_attention_heads"]),
    ],
)
def test_what_does_not_split_over_gpus_is_named(name: str, gpus: int, keys: list[str]) -> None:
    config = PUBLISHED[name]
    for reader in ("vllm", "sglang"):
        assert refused(config, shape_from_config(config), reader, gpus) == keys
