"""`minitron verify` on configurations as they are published, shortened to the keys that matter."""

import json
from pathlib import Path
from typing import Any

import pytest

from minitron.cli.main import main
from minitron.models.families import FAMILIES

ATTENTION = {"num_attention_heads": 32, "num_key_value_heads": 8}
MAMBA = {"mamba_n_heads": 128, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_d_conv": 4, "mamba_expand": 2}
DELTA = {
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}
LLAMA3_POSITIONS = {
    "rope_theta": 500000.0,
    "rope_type": "llama3",
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
}
# As published: Nemotron-H-like, Llama-3.1-8B, Mistral-7B-v0.1, Qwen2.5-7B, Qwen3-4B, SmolLM3-3B, Gemma-3-270M,
# Granite-4.0-H-Small, Bamba-9B, Qwen3-30B-A3B, Qwen3.5's text models.
PUBLISHED: dict[str, dict[str, Any]] = {
    "nemotron_h": {
        "hybrid_override_pattern": "M-M*-ME",
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 15680,
        "mamba_num_heads": 128,
        "mamba_head_dim": 80,
        "n_groups": 8,
        "ssm_state_size": 128,
        "conv_kernel": 4,
        "chunk_size": 128,
        "n_routed_experts": 128,
        "num_experts_per_tok": 6,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 1856,
        "moe_shared_expert_intermediate_size": 3712,
    },
    "llama": {**ATTENTION, "intermediate_size": 14336, "num_hidden_layers": 32, "rope_parameters": LLAMA3_POSITIONS},
    "mistral": {**ATTENTION, "intermediate_size": 14336, "num_hidden_layers": 32, "sliding_window": 4096},
    "qwen2": {
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "use_sliding_window": False,
        "sliding_window": 131072,
        "max_window_layers": 28,
    },
    "qwen3": {**ATTENTION, "head_dim": 128, "intermediate_size": 9728, "num_hidden_layers": 36},
    "smollm3": {
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "no_rope_layer_interval": 4,
        "tie_word_embeddings": True,
    },
    "gemma3_text": {
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 18,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "query_pre_attn_scalar": 256,
    },
    "granitemoehybrid": {
        **ATTENTION,
        **MAMBA,
        "num_hidden_layers": 6,
        "layer_types": ["mamba", "mamba", "attention", "mamba", "mamba", "attention"],
        "mamba_n_groups": 1,
        "mamba_chunk_size": 256,
        "shared_intermediate_size": 1536,
        "num_local_experts": 72,
        "num_experts_per_tok": 10,
        "intermediate_size": 768,
        "embedding_multiplier": 12,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.0078125,
        "logits_scaling": 16,
        "position_embedding_type": "nope",
        "tie_word_embeddings": True,
    },
    "bamba": {
        **ATTENTION,
        **MAMBA,
        "num_hidden_layers": 32,
        "attn_layer_indices": [9, 18, 27],
        "mamba_n_groups": 1,
        "mamba_chunk_size": 256,
        "intermediate_size": 14336,
    },
    "qwen3_moe": {
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 48,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [0, 47],
    },
    "qwen3_5_text": {
        **DELTA,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "full_attention_interval": 4,
    },
    "qwen3_5_moe_text": {
        **DELTA,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "num_hidden_layers": 40,
        "full_attention_interval": 4,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
    },
}


def published(model_type: str) -> dict[str, Any]:
    return {"model_type": model_type, "vocab_size": 131072, "hidden_size": 4096, **PUBLISHED[model_type]}


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_published_configuration_is_cut_exactly(
    model_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_config(tmp_path, published(model_type))
    assert main(["verify", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["holds"]
    assert found["model_type"] == model_type
    laws = {(each["law"], each["axis"]) for each in found["findings"]}
    # Gemma-3-270M has one head of keys and values: nothing can be cut off it.
    one = {axis for axis in FAMILIES[model_type].axes if published(model_type).get(axis) == 1}
    for axis in set(FAMILIES[model_type].axes) - one:
        assert {("any order", axis), ("cut", axis), ("seen", axis)} <= laws
    assert {("counted", "all"), ("cut", "num_hidden_layers")} <= laws


def test_the_table_says_what_was_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(write_config(tmp_path, published("qwen3"))), "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert "qwen3 (T attention and MLP) is counted and cut exactly along every axis" in out
    assert "num_key_value_heads" in out


def test_another_family_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(write_config(tmp_path, {"model_type": "zamba2"}))]) == 2
    assert "model_type must be one of" in capsys.readouterr().err


def test_a_broken_law_is_a_fault_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    qwen3 = FAMILIES["qwen3"]
    axes = dict(qwen3.axes)
    axes["num_attention_heads"] = dataclasses.replace(axes["num_attention_heads"], grouped_by=None)
    monkeypatch.setitem(FAMILIES, "qwen3", dataclasses.replace(qwen3, axes=axes))  # type: ignore[misc]
    assert main(["verify", str(write_config(tmp_path, published("qwen3")))]) == 1
    captured = capsys.readouterr()
    assert "any order of num_attention_heads does not hold for qwen3" in captured.err
    assert "NO" in captured.out
