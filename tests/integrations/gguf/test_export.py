"""Exported files, read back by the package of llama.cpp's authors, against the checkpoint by slow formulas."""

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, NemotronHConfig, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import minitron
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.errors import MinitronError
from minitron.integrations.gguf import families
from minitron.integrations.gguf.export import FILE_TYPES, QUANTIZATION_VERSION
from minitron.integrations.gguf.tensors import TYPES
from minitron.models.shape import HybridShape
from minitron.prune.checkpoint import prune_checkpoint
from tests.support.gguf_files import SHAPES, llama_cpp_name, read_gguf, stack_experts, write_exportable
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_shape
from tests.support.plans import make_block_widths_plan

Numbers = npt.NDArray[np.float32]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def change_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder


def one_by_one(name: str, stored: Numbers, shape: HybridShape) -> Numbers:
    """What llama.cpp wants of a stored tensor, element by element."""
    if name.endswith("A_log"):
        return np.array([[-math.exp(number)] for number in stored.tolist()], dtype=np.float32)
    if name.endswith("mixer.D"):
        return np.array([[number] for number in stored.tolist()], dtype=np.float32)
    if name.endswith("conv1d.weight"):
        return np.array([row[0] for row in stored.tolist()], dtype=np.float32)
    if name.endswith("mixer.norm.weight"):
        a_group = len(stored) // shape.n_groups
        return np.array([stored[group * a_group :][:a_group] for group in range(shape.n_groups)])
    if shape.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        half = shape.head_dim // 2
        # Row 2i of a head is what transformers rotates with row 2i + 1: its own rows i and i + head_dim / 2.
        rows = [
            stored[head * shape.head_dim + pair + side * half]
            for head in range(len(stored) // shape.head_dim)
            for pair in range(half)
            for side in range(2)
        ]
        return np.array(rows)
    return stored


def expected_tensors(folder: Path, shape: HybridShape, architecture: str) -> dict[str, Numbers]:
    found: dict[str, Any] = {}
    for name, stored in load_file(folder / "model.safetensors").items():
        mapped = llama_cpp_name(architecture, name, blocks=shape.num_hidden_layers)
        changed = one_by_one(name, stored, shape)
        if ".experts." in name:
            entry = int(name.split(".experts.")[1].split(".")[0])
            found.setdefault(mapped, {})[entry] = changed
        else:
            found[mapped] = changed
    return stack_experts(found)


@pytest.mark.parametrize("kind", SHAPES)
def test_every_tensor_is_the_checkpoints(tmp_path: Path, kind: str) -> None:
    shape = SHAPES[kind]
    folder = write_exportable(tmp_path / "teacher", shape)
    done = minitron.export(folder, output=tmp_path / "model.gguf")
    assert done.architecture == kind.partition(",")[0]
    _, tensors = read_gguf(done.output)
    expected = expected_tensors(folder, shape, done.architecture)
    assert tensors.keys() == expected.keys()
    for name, numbers in expected.items():
        assert tensors[name].type == "F32"
        assert tensors[name].shape == numbers.shape
        np.testing.assert_array_max_ulp(tensors[name].numbers(), numbers, maxulp=1 if name.endswith("ssm_a") else 0)
    assert done.tensors == len(tensors)
    assert done.params == shape.params == sum(each.raw.size for each in tensors.values())
    assert done.bytes == done.output.stat().st_size
    assert done.types == {"f32": len(tensors)}


@pytest.mark.parametrize(("kind", "architecture"), [("nemotron_h", "nemotron_h"), ("llama", "deci")])
def test_ffn_widths_by_block_are_an_array(tmp_path: Path, kind: str, architecture: str) -> None:
    source = open_checkpoint(write_exportable(tmp_path / "teacher", SHAPES[kind]))
    plan = make_block_widths_plan(source.shape)
    pruned = prune_checkpoint(source, plan, tmp_path / "pruned").folder
    done = minitron.export(pruned, output=tmp_path / "model.gguf", dtype="f32")
    fields, tensors = read_gguf(done.output)
    widths = dict(zip(source.shape.ffn_layers, plan.target.block_widths, strict=True))
    found = fields[f"{architecture}.feed_forward_length"]
    assert found == [widths.get(layer, 0) for layer in range(source.shape.num_hidden_layers)]
    for layer, width in widths.items():
        assert tensors[f"blk.{layer}.ffn_up.weight"].numbers().shape == (width, source.shape.hidden_size)


@pytest.mark.parametrize("kind", SHAPES)
def test_the_metadata_are_the_configurations(tmp_path: Path, kind: str) -> None:
    shape = SHAPES[kind]
    folder = write_exportable(tmp_path / "teacher", shape)
    done = minitron.export(folder, output=tmp_path / "model.gguf")
    fields, _ = read_gguf(done.output)
    config: Any = AutoConfig.from_pretrained(folder)
    arch = done.architecture
    found = {key.removeprefix(f"{arch}."): value for key, value in fields.items() if key.startswith(f"{arch}.")}
    expected: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "vocab_size": config.vocab_size,
        "attention.head_count": config.num_attention_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
    }
    if shape.model_type == "nemotron_h":
        width = config.moe_intermediate_size if "moe" in arch else config.intermediate_size
        kinds = config.layers_block_type
        expected |= {
            "feed_forward_length": [width if each in ("mlp", "moe") else 0 for each in kinds],
            "attention.head_count_kv": [
                config.num_key_value_heads if each == "full_attention" else 0 for each in kinds
            ],
            "attention.layer_norm_epsilon": pytest.approx(config.layer_norm_epsilon),
            "attention.layer_norm_rms_epsilon": pytest.approx(config.layer_norm_epsilon),
            "rope.scaling.finetuned": False,
            "ssm.conv_kernel": config.conv_kernel,
            "ssm.state_size": config.ssm_state_size,
            "ssm.group_count": config.n_groups,
            "ssm.inner_size": config.mamba_num_heads * config.mamba_head_dim,
            "ssm.time_step_rank": config.mamba_num_heads,
        }
    else:
        expected |= {
            "feed_forward_length": config.intermediate_size,
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.layer_norm_rms_epsilon": pytest.approx(config.rms_norm_eps),
            "rope.freq_base": config.rope_parameters["rope_theta"],
        }
    if arch == "nemotron_h_moe":
        expected |= {
            "expert_count": config.n_routed_experts,
            "expert_used_count": config.num_experts_per_tok,
            "expert_feed_forward_length": config.moe_intermediate_size,
            "expert_shared_feed_forward_length": config.moe_shared_expert_intermediate_size,
            "expert_shared_count": config.n_shared_experts,
            "expert_weights_norm": config.norm_topk_prob,
            "expert_weights_scale": config.routed_scaling_factor,
            "expert_group_count": config.n_group,
            "expert_group_used_count": config.topk_group,
        }
        assert config.topk_group < config.n_group
        if config.moe_latent_size:
            expected["moe_latent_size"] = config.moe_latent_size
    assert found == expected
    assert fields["general.architecture"] == arch
    assert fields["general.name"] == "teacher"
    assert fields["general.type"] == "model"


def test_what_a_configuration_leaves_out_is_what_transformers_takes(tmp_path: Path) -> None:
    kinds: dict[str, Any] = {"nemotron_h": NemotronHConfig, "llama": LlamaConfig, "qwen3": Qwen3Config}
    for model_type, made in kinds.items():
        folder = write_exportable(tmp_path / model_type, SHAPES[model_type])
        left_out = (
            "max_position_embeddings",
            "rms_norm_eps",
            "layer_norm_epsilon",
            "rope_parameters",
            "hidden_act",
            "mlp_hidden_act",
        )
        change_config(folder, **dict.fromkeys(left_out, ...))
        done = minitron.export(folder, output=tmp_path / f"{model_type}.gguf")
        fields, _ = read_gguf(done.output)
        default = made()
        assert fields[f"{model_type}.context_length"] == default.max_position_embeddings
        epsilon = default.layer_norm_epsilon if model_type == "nemotron_h" else default.rms_norm_eps
        assert fields[f"{model_type}.attention.layer_norm_rms_epsilon"] == pytest.approx(epsilon)
        if model_type != "nemotron_h":
            assert fields[f"{model_type}.rope.freq_base"] == default.rope_parameters["rope_theta"]


def test_groups_of_which_all_are_used_are_none(tmp_path: Path) -> None:
    shape = make_moe_shape(hybrid_override_pattern="ME*EM", topk_group=3)
    fields, _ = read_gguf(
        minitron.export(write_exportable(tmp_path / "teacher", shape), output=tmp_path / "model.gguf").output
    )
    assert "nemotron_h_moe.expert_group_count" not in fields
    assert "nemotron_h_moe.expert_group_used_count" not in fields


def test_numbers_are_llama_cpps() -> None:
    assert {name: int(gguf.LlamaFileType[kind]) for name, kind in zip(
        ("F32", "F16", "Q8_0", "BF16"), ("ALL_F32", "MOSTLY_F16", "MOSTLY_Q8_0", "MOSTLY_BF16"), strict=True
    )} == FILE_TYPES  # fmt: skip
    assert QUANTIZATION_VERSION == gguf.GGML_QUANT_VERSION
    for name, (nbytes, numbers, _) in TYPES.items():
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]] == (numbers, nbytes)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [None, "f32", "f16", "bf16"])
def test_matrices_are_rounded_once_and_the_rest_stays_in_fp32(
    tmp_path: Path, stored: torch.dtype, dtype: str | None
) -> None:
    folder = write_exportable(tmp_path / "teacher", SHAPES["nemotron_h_moe"], dtype=stored)
    done = minitron.export(folder, output=tmp_path / "model.gguf", dtype=dtype)
    fields, tensors = read_gguf(done.output)
    names = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    target = stored if dtype is None else names[dtype]
    matrices = {name for name, each in tensors.items() if len(each.shape) > 1}
    alone = {
        name for name in matrices if any(part in name for part in ("ssm_a", "ssm_d", "conv1d", "ssm_norm", "gate_inp"))
    }
    weights = load_tensors(folder / "model.safetensors")
    up = weights["backbone.layers.0.mixer.in_proj.weight"].float().to(target).float()
    np.testing.assert_array_equal(tensors["blk.0.ssm_in.weight"].numbers(), up.numpy())
    router = weights["backbone.layers.1.mixer.gate.weight"].float()
    np.testing.assert_array_equal(tensors["blk.1.ffn_gate_inp.weight"].numbers(), router.numpy())
    expected = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[target]
    assert {name: each.type for name, each in tensors.items()} == {
        name: expected if name in matrices - alone else "F32" for name in tensors
    }
    assert fields["general.file_type"] == FILE_TYPES[expected]


WIDE = make_tiny_shape(hidden_size=64, intermediate_size=96, vocab_size=283)


def test_q8_0_is_llama_cpps_and_a_row_that_is_no_multiple_of_32_stays_as_it_is_stored(tmp_path: Path) -> None:
    folder = write_exportable(tmp_path / "teacher", WIDE, dtype=torch.bfloat16)
    done = minitron.export(folder, output=tmp_path / "model.gguf", dtype="q8_0")
    fields, tensors = read_gguf(done.output)
    _, exact = read_gguf(minitron.export(folder, output=tmp_path / "exact.gguf", dtype="f32").output)
    kept = {name for name, each in tensors.items() if each.type == "BF16"}
    # rows of the 40 channels of a Mamba mixer, and of the 60 of an attention's heads
    assert {name.split(".")[2] for name in kept} == {"ssm_out", "attn_output"}
    quantized = {name for name, each in tensors.items() if each.type == "Q8_0"}
    assert {name.split(".")[-2] for name in quantized} == {
        "token_embd", "output", "ssm_in", "attn_q", "attn_k", "attn_v", "ffn_up", "ffn_down"
    }  # fmt: skip
    assert done.types == {
        "f32": len(tensors) - len(kept) - len(quantized), "q8_0": len(quantized), "bf16": len(kept)
    }  # fmt: skip
    assert fields["general.file_type"] == FILE_TYPES["Q8_0"]
    for name in quantized:
        blocks = tensors[name].raw.reshape(-1, 34)
        for block, row in zip(blocks, exact[name].numbers().reshape(-1, 32), strict=True):
            largest = np.float32(max(abs(number) for number in row.tolist()))
            step = np.float32(largest / np.float32(127))
            assert block[:2].view("<f2")[0] == np.float16(step)
            for quant, number in zip(block[2:].view("i1").tolist(), row.tolist(), strict=True):
                assert abs(quant - number / float(step)) <= 0.5 + 1e-5


def test_tokens_fill_the_rows_of_the_embeddings(tmp_path: Path) -> None:
    folder = write_exportable(tmp_path / "teacher", make_dense_shape("qwen3", vocab_size=273))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["[PAD264]"])
    tokenizer.save_pretrained(folder)
    fields, tensors = read_gguf(minitron.export(folder, output=tmp_path / "model.gguf").output)
    assert len(fields["tokenizer.ggml.tokens"]) == tensors["token_embd.weight"].shape[0] == 273
    texts = ["[PAD263]", "[PAD264]_", *(f"[PAD{number}]" for number in range(265, 273))]
    assert fields["tokenizer.ggml.tokens"][262:] == ["[PAD264]", *texts]
    assert fields["tokenizer.ggml.token_type"][263:] == [int(gguf.TokenType.UNUSED)] * 10


@pytest.mark.parametrize("beside", [{}, {"original_max_position_embeddings": 40}])
def test_a_table_of_rotary_divisors_is_transformers(tmp_path: Path, beside: dict[str, int]) -> None:
    folder = write_exportable(tmp_path / "teacher", SHAPES["llama"])
    change_config(folder, rope_parameters=LLAMA3, max_position_embeddings=256, **beside)
    done = minitron.export(folder, output=tmp_path / "model.gguf")
    _, tensors = read_gguf(done.output)
    config = AutoConfig.from_pretrained(folder)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500.0 ** (-torch.arange(0, 10, 2, dtype=torch.float64) / 10)
    divisors = tensors["rope_freqs.weight"].numbers()
    assert len(set(divisors.tolist())) >= 3  # kept, interpolated, divided
    np.testing.assert_allclose(plain.numpy() / divisors, scaled.numpy(), rtol=1e-6)
    assert done.params == SHAPES["llama"].params
    assert done.tensors == len(tensors)


@pytest.mark.parametrize(
    ("rope", "keys"),
    [
        ({"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0}, {"type": "linear", "factor": 4.0}),
        (
            {"rope_type": "yarn", "factor": 2.0, "rope_theta": 100.0, "original_max_position_embeddings": 64},
            {
                "type": "yarn",
                "factor": 2.0,
                "original_context_length": 64,
                "yarn_beta_fast": 32.0,
                "yarn_beta_slow": 1.0,
            },
        ),
    ],
)
@pytest.mark.parametrize("older", [False, True])
def test_scaled_rotary_positions_are_keys(
    tmp_path: Path, rope: dict[str, Any], keys: dict[str, Any], older: bool
) -> None:
    folder = write_exportable(tmp_path / "teacher", SHAPES["qwen3"])
    if older:
        scaling = {
            "type": rope["rope_type"],
            **{key: rope[key] for key in rope if key not in ("rope_type", "rope_theta")},
        }
        change_config(folder, rope_parameters=..., rope_scaling=scaling, rope_theta=rope["rope_theta"])
    else:
        change_config(folder, rope_parameters=rope)
    fields, _ = read_gguf(minitron.export(folder, output=tmp_path / "model.gguf").output)
    assert fields["qwen3.rope.freq_base"] == 100.0
    prefix = "qwen3.rope.scaling."
    assert {key.removeprefix(prefix): value for key, value in fields.items() if key.startswith(prefix)} == keys


REFUSED: dict[str, tuple[HybridShape, dict[str, Any], str]] = {
    "no attention": (make_tiny_shape(hybrid_override_pattern="M-M"), {}, "must have Mamba-2 blocks and attention"),
    "no Mamba": (make_tiny_shape(hybrid_override_pattern="*-*"), {}, "the pattern *-* lacks one of them"),
    "both": (make_moe_shape(), {}, "either MLP blocks or blocks of experts"),
    "activation": (SHAPES["nemotron_h"], {"mlp_hidden_act": "gelu"}, 'mlp_hidden_act in config.json must be "relu2"'),
    "steps": (SHAPES["nemotron_h"], {"time_step_limit": [0.01, 0.1]}, "time_step_limit in config.json must be"),
    "epsilon": (SHAPES["llama"], {"rms_norm_eps": "small"}, "rms_norm_eps in config.json must be a number"),
    "gate": (SHAPES["llama"], {"hidden_act": "gelu"}, 'hidden_act in config.json must be "silu"'),
    "rope": (SHAPES["llama"], {"rope_parameters": {"rope_type": "dynamic"}}, "default, linear, yarn, llama3 for"),
    "by layer": (
        SHAPES["llama"],
        {"rope_parameters": {"full_attention": {"rope_theta": 5.0}}},
        "must be one object for all layers",
    ),
    "no table": (SHAPES["qwen3"], {"rope_parameters": LLAMA3}, "must be one of default, linear, yarn for llama.cpp"),
    "half": (SHAPES["llama"], {"partial_rotary_factor": 0.5}, "partial_rotary_factor in config.json must be 1"),
    "factor": (SHAPES["llama"], {"rope_parameters": {"rope_type": "linear"}}, "must give factor"),
    "yarn": (
        SHAPES["llama"],
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}},
        "it has mscale",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path: Path, fault: str) -> None:
    shape, changes, message = REFUSED[fault]
    folder = change_config(write_exportable(tmp_path / "teacher", shape), **changes)
    with pytest.raises(MinitronError, match=".") as raised:
        minitron.export(folder, output=tmp_path / "model.gguf")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_a_family_without_declarations_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", {"llama": families.FAMILIES["llama"]})
    folder = write_exportable(tmp_path / "teacher", SHAPES["qwen3"])
    with pytest.raises(MinitronError, match="model_type must be one of llama to be exported, got 'qwen3'"):
        minitron.export(folder, output=tmp_path / "model.gguf")
