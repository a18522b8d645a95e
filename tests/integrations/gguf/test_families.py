"""Exported files of families that share an architecture of llama.cpp or fuse matrices, against slow formulas."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file
from transformers import AutoConfig

import minitron
from minitron.errors import MinitronError
from minitron.models.shape import HybridShape
from tests.support.gguf_files import read_gguf, stack_experts, write_exportable
from tests.support.models import make_dense_shape

Numbers = npt.NDArray[np.float32]
EXPERTS = {"n_routed_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 11}
SHARED = {"moe_shared_expert_intermediate_size": 13, "intermediate_size": 0}
MAMBA = {"mamba_num_heads": 6, "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 7, "conv_kernel": 4}
HYBRID = {"hybrid_override_pattern": "HTH", "head_dim": 12, **MAMBA}
SHAPES = {
    "mistral": make_dense_shape("mistral"),
    "qwen2": make_dense_shape("qwen2", hidden_size=60, tie_word_embeddings=1),
    "smollm3": make_dense_shape("smollm3", hybrid_override_pattern="TTTNT", tie_word_embeddings=1),
    "qwen3_moe": make_dense_shape("qwen3_moe", hybrid_override_pattern="XX", **EXPERTS),
    "granitemoehybrid": make_dense_shape("granitemoehybrid", **{**HYBRID, **SHARED, **EXPERTS}),
    "granitemoehybrid, without experts": make_dense_shape("granitemoehybrid", **{**HYBRID, **SHARED}),
    "bamba": make_dense_shape("bamba", **HYBRID),
}
ARCHITECTURES = {
    "mistral": "llama",
    "qwen3_moe": "qwen3moe",
    "granitemoehybrid": "granitehybrid",
    "bamba": "granitehybrid",
}
# Name inside a block, up to its last word, -> llama.cpp's. Where there are two, the rows are half of the one, half of
# the other.
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "pre_ff_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    "feed_forward.gate_proj": "ffn_gate",
    "feed_forward.up_proj": "ffn_up",
    "feed_forward.down_proj": "ffn_down",
    "mamba.in_proj": "ssm_in",
    "mamba.conv1d": "ssm_conv1d",
    "mamba.A_log": "ssm_a",
    "mamba.D": "ssm_d",
    "mamba.dt_bias": "ssm_dt.bias",
    "mamba.norm": "ssm_norm",
    "mamba.out_proj": "ssm_out",
    "block_sparse_moe.router.layer": "ffn_gate_inp",
    "block_sparse_moe.input_linear": "ffn_gate_exps ffn_up_exps",
    "block_sparse_moe.output_linear": "ffn_down_exps",
}
SHARED_NAMES = {"shared_mlp.input_linear": "ffn_gate{0} ffn_up{0}", "shared_mlp.output_linear": "ffn_down{0}"}
OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "model.final_layernorm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def turned(stored: Numbers, head_dim: int, rotated: int) -> Numbers:
    """Rows of queries or keys, the two that are turned together side by side."""
    rows = []
    for head in range(len(stored) // head_dim):
        a_head = stored[head * head_dim :][:head_dim]
        for pair in range(rotated // 2):
            rows += [a_head[pair], a_head[pair + rotated // 2]]
        rows += list(a_head[rotated:])
    return np.array(rows)


def one_by_one(name: str, stored: Numbers, shape: HybridShape) -> Numbers:
    """What llama.cpp wants of a stored tensor."""
    if shape.model_type not in ("qwen2", "qwen3_moe") and name.endswith(("q_proj.weight", "k_proj.weight")):
        return turned(stored, shape.head_dim, shape.head_dim // 2 if shape.model_type == "bamba" else shape.head_dim)
    if name.endswith("A_log"):
        return -np.exp(stored)[:, None]
    if name.endswith("mamba.D"):
        return stored[:, None]
    if name.endswith("conv1d.weight"):
        return stored[:, 0]
    return stored.reshape(shape.n_groups, -1) if name.endswith("mamba.norm.weight") else stored


def expected_tensors(folder: Path, shape: HybridShape) -> dict[str, Numbers]:
    names = NAMES | {
        name: each.format("_shexp" if shape.n_routed_experts else "") for name, each in SHARED_NAMES.items()
    }
    found: dict[str, Any] = {}
    for name, stored in sorted(load_file(folder / "model.safetensors").items()):
        if name in OUTSIDE:
            found[OUTSIDE[name]] = stored
            continue
        _, _, layer, inside = name.split(".", 3)
        numbers = one_by_one(name, stored, shape)
        if ".experts." in inside:
            _, _, expert, projection, _ = inside.split(".")
            found.setdefault(f"blk.{layer}.{names[f'mlp.experts.{projection}']}.weight", {})[int(expert)] = numbers
            continue
        word = inside.rpartition(".")[2] if inside.endswith((".weight", ".bias")) else ""
        mapped = names[inside.removesuffix(f".{word}")].split()
        for half, each in enumerate(mapped):
            rows = numbers.shape[-2] // 2 if len(mapped) == 2 else 0
            part = numbers[..., half * rows :, :][..., :rows, :] if rows else numbers
            found[f"blk.{layer}.{each}" + (f".{word}" if word else "")] = part
    return stack_experts(found)


@pytest.mark.parametrize("kind", SHAPES)
def test_every_tensor_is_the_checkpoints(tmp_path: Path, kind: str) -> None:
    shape = SHAPES[kind]
    folder = write_exportable(tmp_path / "teacher", shape)
    done = minitron.export(folder, output=tmp_path / "model.gguf")
    assert done.architecture == ARCHITECTURES.get(shape.model_type, shape.model_type)
    _, tensors = read_gguf(done.output)
    expected = expected_tensors(folder, shape)
    assert tensors.keys() == expected.keys()
    for name, numbers in expected.items():
        assert tensors[name].type == "F32"
        assert tensors[name].shape == numbers.shape
        np.testing.assert_array_max_ulp(tensors[name].numbers(), numbers, maxulp=1 if name.endswith("ssm_a") else 0)
    assert done.params == shape.params == sum(each.raw.size for each in tensors.values())


@pytest.mark.parametrize("kind", SHAPES)
def test_the_metadata_are_the_configurations(tmp_path: Path, kind: str) -> None:
    shape = SHAPES[kind]
    done = minitron.export(write_exportable(tmp_path / "teacher", shape), output=tmp_path / "model.gguf")
    fields, _ = read_gguf(done.output)
    config: Any = AutoConfig.from_pretrained(tmp_path / "teacher")
    arch = done.architecture
    found = {key.removeprefix(f"{arch}."): value for key, value in fields.items() if key.startswith(f"{arch}.")}
    mixed = shape.model_type in ("granitemoehybrid", "bamba")
    widths = {"granitemoehybrid": "moe_intermediate_size" if "," not in kind else "moe_shared_expert_intermediate_size"}
    kv = shape.num_key_value_heads
    expected: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "vocab_size": config.vocab_size,
        "feed_forward_length": shape.sizes[widths.get(shape.model_type, "intermediate_size")],
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": [0, kv, 0] if mixed else kv,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": pytest.approx(config.rms_norm_eps),
        "rope.dimension_count": shape.head_dim // (2 if shape.model_type == "bamba" else 1),
        "rope.freq_base": config.rope_parameters["rope_theta"],
    }
    if mixed:
        expected |= {
            "rope.scaling.finetuned": True,
            "ssm.conv_kernel": 4,
            "ssm.state_size": 7,
            "ssm.group_count": 2,
            "ssm.inner_size": 48,
            "ssm.time_step_rank": 6,
        }
    if shape.model_type == "granitemoehybrid":
        expected |= {
            "embedding_scale": pytest.approx(config.embedding_multiplier),
            "residual_scale": pytest.approx(config.residual_multiplier),
            "attention.scale": pytest.approx(config.attention_multiplier),
            "logit_scale": pytest.approx(config.logits_scaling),
        }
    if shape.n_routed_experts:
        expected |= {"expert_count": 5, "expert_used_count": 2}
        shared = shape.model_type == "granitemoehybrid"
        expected |= {"expert_shared_feed_forward_length": 13} if shared else {"expert_feed_forward_length": 11}
    assert found == expected


def test_what_a_configuration_leaves_out_is_what_transformers_takes(tmp_path: Path) -> None:
    for kind in (each for each in SHAPES if "," not in each):
        folder = write_exportable(tmp_path / kind, SHAPES[kind])
        path = folder / "config.json"
        config = json.loads(path.read_text())
        left_out = ("max_position_embeddings", "rms_norm_eps", "rope_parameters", "hidden_act")
        path.write_text(json.dumps({key: value for key, value in config.items() if key not in left_out}))
        done = minitron.export(folder, output=tmp_path / f"{kind}.gguf")
        fields, _ = read_gguf(done.output)
        default: Any = AutoConfig.for_model(kind)
        assert fields[f"{done.architecture}.context_length"] == default.max_position_embeddings
        epsilon = fields[f"{done.architecture}.attention.layer_norm_rms_epsilon"]
        assert epsilon == pytest.approx(default.rms_norm_eps)
        assert fields[f"{done.architecture}.rope.freq_base"] == default.rope_parameters["rope_theta"]


def test_attention_without_positions_has_none_in_the_file(tmp_path: Path) -> None:
    folder = write_exportable(tmp_path / "teacher", SHAPES["granitemoehybrid"])
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"position_embedding_type": "nope"}))
    fields, _ = read_gguf(minitron.export(folder, output=tmp_path / "model.gguf").output)
    assert fields["granitehybrid.rope.scaling.finetuned"] is False
    assert "granitehybrid.rope.freq_base" not in fields


REFUSED: dict[str, tuple[HybridShape, dict[str, Any], str]] = {
    "window": (
        make_dense_shape("mistral", hybrid_override_pattern="SSS", sliding_window=4),
        {},
        "sliding_window in config.json must be null for llama.cpp, got 4",
    ),
    "heads": (make_dense_shape("qwen2"), {}, "must be hidden_size=24 for a qwen2 in llama.cpp, got 60"),
    "places": (make_dense_shape("smollm3", hybrid_override_pattern="TTN"), {}, "must be each 4th of a smollm3"),
    "MLP": (
        make_dense_shape("qwen3_moe", hybrid_override_pattern="XT", **EXPERTS),
        {},
        "every layer of a qwen3_moe must have experts for llama.cpp, 1 of the pattern XT have an MLP",
    ),
    "weights of experts": (
        SHAPES["qwen3_moe"],
        {"norm_topk_prob": False},
        "norm_topk_prob in config.json must be true",
    ),
    "expansion": (
        make_dense_shape("granitemoehybrid", **{**HYBRID, **SHARED, "mamba_head_dim": 4}),
        {},
        "Mamba heads times channels must be 2 times hidden_size=24 for llama.cpp, got 24",
    ),
    "no attention": (
        make_dense_shape("granitemoehybrid", **{**HYBRID, **SHARED, "hybrid_override_pattern": "HH"}),
        {},
        "the pattern HH lacks one of them",
    ),
    "steps": (SHAPES["bamba"], {"time_step_limit": [0.01, 0.1]}, "time_step_limit in config.json must be"),
    "gemma": (
        make_dense_shape("gemma3_text", hybrid_override_pattern="ST", sliding_window=4),
        {},
        "model_type must be one of nemotron_h, llama, mistral,",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path: Path, what: str) -> None:
    shape, changes, message = REFUSED[what]
    folder = write_exportable(tmp_path / "teacher", shape)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(MinitronError, match=".") as raised:
        minitron.export(folder, output=tmp_path / "model.gguf")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [each.name for each in tmp_path.iterdir()] == ["teacher"]
