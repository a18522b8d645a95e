"""w8a8 and w4a16 against plain numpy in fp64: codes, scales, packing; and the folders that hold them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.headers import SINGLE_FILE
from minitron.checkpoints.weights import write_state
from minitron.cli.main import main
from minitron.estimate.precision import WEIGHT_FORMATS, quantized_matrices, scale_group
from minitron.estimate.serving.memory import block_bytes, memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.integrations.compressed_tensors import rounding
from minitron.integrations.compressed_tensors.rounding import CLIP_RATIOS, group_scales, row_scales
from minitron.integrations.quantize.dequantize import LEAST_CLIP, check_weights, dequantized
from minitron.integrations.quantize.divergence import round_blocks, round_tokens
from minitron.integrations.quantize.run import quantize_checkpoint
from minitron.integrations.quantize.settings import QuantizeSettings
from minitron.models.shape import HybridShape
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_shape, write_tiny_checkpoint

Array = Any
HYBRID = make_tiny_shape(
    hybrid_override_pattern="M-*M-",
    hidden_size=128,
    intermediate_size=192,
    num_attention_heads=9,
    head_dim=64,
    mamba_num_heads=20,
    mamba_head_dim=16,
)
EXPERTS = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 3,
    "head_dim": 64,
    "mamba_num_heads": 8,
    "mamba_head_dim": 20,
    "moe_intermediate_size": 128,
    "moe_shared_expert_intermediate_size": 224,
}
SHAPES = {
    "hybrid": HYBRID,
    "llama": make_dense_shape("llama", hidden_size=384, intermediate_size=256, num_attention_heads=6, head_dim=64),
    "qwen3, tied": make_dense_shape(
        "qwen3", hidden_size=192, intermediate_size=320, head_dim=32, tie_word_embeddings=1
    ),
    "experts": make_moe_shape(**EXPERTS),
    "latent experts": make_moe_shape(moe_latent_size=160, **EXPERTS),
}
GROUPS = {"hybrid": 64, "llama": 128, "qwen3, tied": 64, "experts": 32, "latent experts": 32}
FORMATS = ("w8a8", "w4a16")


def unpacked(words_RW: Array) -> Array:
    """Codes [R, 8W] of int32 words, nibble by nibble from the lowest bits."""
    unsigned = words_RW.astype(np.int64) % 2**32
    return np.stack([unsigned // 16**place % 16 for place in range(8)], axis=-1).reshape(len(words_RW), -1) - 8


def bf16(numbers: Array) -> Array:
    return torch.from_numpy(np.asarray(numbers)).to(torch.bfloat16).double().numpy()


def best_group(weight_I: Array) -> tuple[float, Array]:
    """Scale and codes of one group with the least squared error among the clip ratios."""
    found = []
    for ratio in CLIP_RATIOS:
        scale = float(bf16(np.float32(np.abs(weight_I).max()) * np.float32(ratio / 7.5)))
        codes = np.clip(np.rint(weight_I / scale), -8, 7)
        found.append((float(((codes * scale - weight_I) ** 2).sum()), scale, codes))
    _, scale, codes = min(found, key=lambda each: each[0])
    return scale, codes


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 5), groups=st.integers(1, 3), group=st.sampled_from([32, 64]), seed=st.integers(0, 2**16))
def test_4_bit_codes_scales_and_words_are_those_of_plain_numpy(rows: int, groups: int, group: int, seed: int) -> None:
    weight_RC = bf16(np.random.default_rng(seed).standard_t(3, (rows, groups * group)))
    given_RC = torch.from_numpy(weight_RC).to(torch.bfloat16)
    scale_RG = group_scales(given_RC, group, torch.bfloat16)
    codes_RC = unpacked(rounding.packed_groups(given_RC, scale_RG).numpy())
    for row in range(rows):
        for number in range(groups):
            part = slice(number * group, (number + 1) * group)
            scale, codes = best_group(weight_RC[row, part])
            error = ((codes_RC[row, part] * float(scale_RG[row, number]) - weight_RC[row, part]) ** 2).sum()
            least = ((codes * scale - weight_RC[row, part]) ** 2).sum()
            assert error == pytest.approx(least, rel=1e-5)
            assert float(scale_RG[row, number]) == pytest.approx(scale, rel=2**-5)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 7), columns=st.integers(1, 40), seed=st.integers(0, 2**16))
def test_8_bit_codes_are_those_of_plain_numpy(rows: int, columns: int, seed: int) -> None:
    weight_RC = bf16(np.random.default_rng(seed).normal(size=(rows, columns)))
    given_RC = torch.from_numpy(weight_RC).to(torch.bfloat16)
    scale_R1 = row_scales(given_RC)
    np.testing.assert_allclose(scale_R1.numpy(), np.abs(weight_RC).max(axis=1, keepdims=True) / 127.5, rtol=1e-6)
    codes_RC = rounding.rounded_rows(given_RC, scale_R1).numpy()
    quotient_RC = weight_RC / scale_R1.double().numpy()
    assert codes_RC.dtype == np.int8
    assert np.abs(codes_RC - quotient_RC).max() <= 0.5 + 1e-4
    assert np.array_equal(np.sign(codes_RC), np.sign(np.rint(quotient_RC)))


def test_clipping_a_group_is_nearer_than_reaching_its_largest_weight() -> None:
    weight_RC = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    reached = (weight_RC.reshape(64, -1, 128).abs().amax(dim=2) / 7.5).to(torch.bfloat16)

    def error(scale: torch.Tensor) -> float:
        words = rounding.packed_groups(weight_RC, scale)
        return float((dequantized("w4a16", words, scale) - weight_RC).square().mean())

    assert error(group_scales(weight_RC, 128, torch.bfloat16)) < 0.9 * error(reached)
    assert min(CLIP_RATIOS) > LEAST_CLIP


@pytest.mark.parametrize("chunk", [1, 7 * 64, 2**22])
def test_a_matrix_in_chunks_is_the_same_matrix(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    weight_RC = torch.randn(19, 64, generator=torch.Generator().manual_seed(1))
    scales = row_scales(weight_RC), group_scales(weight_RC, 32, torch.float16)
    whole = rounding.rounded_rows(weight_RC, scales[0]), rounding.packed_groups(weight_RC, scales[1])
    monkeypatch.setattr(rounding, "CHUNK_NUMBERS", chunk)
    assert torch.equal(group_scales(weight_RC, 32, torch.float16), scales[1])
    assert torch.equal(rounding.rounded_rows(weight_RC, scales[0]), whole[0])
    assert torch.equal(rounding.packed_groups(weight_RC, scales[1]), whole[1])


def test_rows_and_groups_of_zeros_have_a_scale_and_are_zeros() -> None:
    nothing_RC = torch.zeros(3, 64, dtype=torch.bfloat16)
    assert (
        dequantized("w8a8", rounding.rounded_rows(nothing_RC, row_scales(nothing_RC)), row_scales(nothing_RC))
        .abs()
        .max()
        == 0
    )
    scale_RG = group_scales(nothing_RC, 32, torch.bfloat16)
    assert bool((scale_RG > 0).all())
    assert dequantized("w4a16", rounding.packed_groups(nothing_RC, scale_RG), scale_RG).abs().max() == 0


def test_tokens_are_rounded_to_127_steps_of_their_largest_number() -> None:
    found = round_tokens(torch.tensor([[127.0, 1.5, 2.5, -0.6], [0.0, 0.0, 0.0, 0.0], [2.54, 0.011, -2.54, 1.0]]))
    assert found[:2].tolist() == [[127.0, 2.0, 2.0, -1.0], [0.0, 0.0, 0.0, 0.0]]
    assert found[2].tolist() == pytest.approx([2.54, 0.02, -2.54, 1.0])


def test_blocks_of_16_are_rounded_to_eight_magnitudes_ties_to_even() -> None:
    x = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -5.0, 6.0, 0.0, 1.0, -0.26, -0.74, 2.0, 3.0, 4.0]
    expected = [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, -4.0, 6.0, 0.0, 1.0, -0.5, -0.5, 2.0, 3.0, 4.0]
    found = round_blocks(torch.tensor([[*x, *(8 * each for each in x)]]), torch.tensor(1.0))
    assert found[0].tolist() == [*expected, *(8 * each for each in expected)]
    assert round_blocks(torch.zeros(2, 16), torch.tensor(1.0)).tolist() == [[0.0] * 16] * 2


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("each", FORMATS)
def test_every_family_is_written_as_fit_counts_it(tmp_path: Path, name: str, each: str) -> None:
    shape = SHAPES[name]
    source = write_tiny_checkpoint(tmp_path / "source", shape=shape, dtype=torch.bfloat16)
    measured = quantize_checkpoint(source, QuantizeSettings(format=each), tmp_path / "out")
    assert measured["kl_to_unquantized"] is None
    written = open_checkpoint(tmp_path / "out", quantized=True)
    stored = load_file(tmp_path / "out" / SINGLE_FILE)
    workload = Workload(context_tokens=1, weights_dtype=each)  # type: ignore[arg-type]
    assert sum(tensor.nbytes for tensor in stored.values()) == memory_bytes(shape, workload).weights_bytes
    assert (written.shape, written.params, written.weights_format) == (shape, shape.params, each)
    assert written.weights_bytes == memory_bytes(shape, workload).weights_bytes
    assert check_weights(open_checkpoint(source), written) <= 1.001
    blocks = block_bytes(shape, workload)
    outside = 2 * sum(stored[spec.name].numel() for spec in shape.family.tensors_outside(shape.sizes))
    assert (
        sum(shape.count(kind) * found.weights_bytes for kind, found in blocks.items()) + outside
        == measured["weights_bytes_after"]
    )


@pytest.mark.parametrize("name", SHAPES)
def test_names_types_and_shapes_are_those_that_vllm_reads(tmp_path: Path, name: str) -> None:
    shape = SHAPES[name]
    source = write_tiny_checkpoint(tmp_path / "source", shape=shape, dtype=torch.bfloat16)
    for each in FORMATS:
        quantize_checkpoint(source, QuantizeSettings(format=each), tmp_path / each)
    eight, four = (load_file(tmp_path / each / SINGLE_FILE) for each in FORMATS)
    for matrix, (rows, columns) in quantized_matrices(shape).items():
        module = matrix.removesuffix(".weight")
        assert (eight[matrix].dtype, tuple(eight[matrix].shape)) == (torch.int8, (rows, columns))
        assert (eight[f"{module}.weight_scale"].dtype, tuple(eight[f"{module}.weight_scale"].shape)) == (
            torch.float32,
            (rows, 1),
        )
        packed, scale = four[f"{module}.weight_packed"], four[f"{module}.weight_scale"]
        assert (packed.dtype, tuple(packed.shape)) == (torch.int32, (rows, columns // 8))
        assert (scale.dtype, tuple(scale.shape)) == (torch.bfloat16, (rows, columns // GROUPS[name]))
        assert four[f"{module}.weight_shape"].tolist() == [rows, columns]
        assert matrix not in four
    for each in FORMATS:
        config = json.loads((tmp_path / each / "config.json").read_text())["quantization_config"]
        (scheme,) = config["config_groups"].values()
        assert (config["quant_method"], scheme["targets"], config["format"]) == (
            "compressed-tensors",
            ["Linear"],
            scheme["format"],
        )
        assert set(config["ignore"]) == {"lm_head"} | {
            tensor.removesuffix(".weight")
            for tensor in (*shape.tensors(),)
            if tensor.endswith(("embeddings.weight", "embed_tokens.weight", "gate.weight"))
        }
        assert scheme["weights"]["group_size"] == (GROUPS[name] if each == "w4a16" else None)
    gate = [tensor for tensor in eight if "e_score_correction_bias" in tensor]
    assert {eight[tensor].dtype for tensor in gate} <= {torch.float32}


def test_the_group_is_the_longest_that_divides_the_columns_of_every_matrix() -> None:
    weights = WEIGHT_FORMATS["w4a16"]
    for name, shape in SHAPES.items():
        assert scale_group(shape.family, shape.counts, shape.sizes, weights) == GROUPS[name]
    shape = SHAPES["llama"]
    sizes = {**shape.sizes, "intermediate_size": np.array([256, 192, 160, 128])}
    assert scale_group(shape.family, shape.counts, sizes, weights).tolist() == [128, 64, 32, 128]


@pytest.mark.parametrize("each", FORMATS)
@pytest.mark.parametrize("spoilt", ["model.layers.1.mlp.up_proj.weight", "model.layers.2.input_layernorm.weight"])
def test_one_spoilt_number_is_found(tmp_path: Path, each: str, spoilt: str) -> None:
    source = write_tiny_checkpoint(tmp_path / "source", shape=SHAPES["llama"], dtype=torch.bfloat16)
    quantize_checkpoint(source, QuantizeSettings(format=each), tmp_path / "out")
    tensors = load_file(tmp_path / "out" / SINGLE_FILE)
    name = spoilt if spoilt in tensors else f"{spoilt}_packed"
    raw = tensors[name].view(torch.uint8).flatten()
    raw[3] ^= 0x40
    tensors[name] = raw.view(tensors[name].dtype).reshape(tensors[name].shape)
    save_file(tensors, tmp_path / "out" / SINGLE_FILE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"within half a step|must be what it was"):
        check_weights(open_checkpoint(source), open_checkpoint(tmp_path / "out", quantized=True))


def test_a_scale_that_clips_more_than_any_ratio_is_found(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "source", shape=SHAPES["llama"], dtype=torch.bfloat16)
    quantize_checkpoint(source, QuantizeSettings(format="w4a16"), tmp_path / "out")
    tensors = load_file(tmp_path / "out" / SINGLE_FILE)
    module = "model.layers.0.mlp.up_proj"
    weight = load_file(source / SINGLE_FILE)[f"{module}.weight"]
    tensors[f"{module}.weight_scale"] /= 3
    tensors[f"{module}.weight_packed"] = rounding.packed_groups(weight, tensors[f"{module}.weight_scale"])
    save_file(tensors, tmp_path / "out" / SINGLE_FILE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="within half a step"):
        check_weights(open_checkpoint(source), open_checkpoint(tmp_path / "out", quantized=True))


def test_a_matrix_that_is_stored_packed_and_not_is_refused(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "source", shape=SHAPES["llama"], dtype=torch.bfloat16)
    quantize_checkpoint(source, QuantizeSettings(format="w4a16"), tmp_path / "out")
    tensors = load_file(tmp_path / "out" / SINGLE_FILE)
    twice = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {twice: torch.zeros(2)}, tmp_path / "out" / SINGLE_FILE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"holds {twice} both packed and not"):
        open_checkpoint(tmp_path / "out", quantized=True)


def test_a_source_in_fp32_over_several_files_is_quantized_from_its_16_bit_rounding(tmp_path: Path) -> None:
    one = write_tiny_checkpoint(tmp_path / "one", shape=HYBRID, dtype=torch.float32)
    many = write_tiny_checkpoint(tmp_path / "many", shape=HYBRID, dtype=torch.float32, shard_bytes=60_000)
    assert len(list(many.glob("*.safetensors"))) > 2
    for each in FORMATS:
        quantize_checkpoint(one, QuantizeSettings(format=each), tmp_path / f"one {each}")
        quantize_checkpoint(many, QuantizeSettings(format=each), tmp_path / f"many {each}")
        first, second = (load_file(tmp_path / f"{name} {each}" / SINGLE_FILE) for name in ("one", "many"))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert first["lm_head.weight"].dtype == torch.bfloat16


def test_a_weight_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "source", shape=HYBRID, dtype=torch.bfloat16)
    tensors = load_file(source / SINGLE_FILE)
    tensors["backbone.layers.1.mixer.up_proj.weight"][3, 5] = torch.inf
    write_state(source, tensors)
    for each in FORMATS:
        with pytest.raises(ValueError, match="weights must be finite to be quantized, backbone.layers.1.mixer.up_proj"):
            quantize_checkpoint(source, QuantizeSettings(format=each), tmp_path / each)


@pytest.mark.parametrize("each", FORMATS)
def test_the_verb_measures_the_kl_where_text_is_given(
    tmp_path: Path, each: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    source = write_tiny_checkpoint(tmp_path / "source", shape=make_moe_shape(**EXPERTS), dtype=torch.bfloat16)
    text = tmp_path / "text.txt"
    text.write_text("\n---\n".join(f"line {i} of some text, {i * i}" for i in range(80)))
    command = ["quantize", str(source), "--format", each, "--samples", "2", "--seq-len", "16", "--json"]
    assert main([*command, "--output", str(tmp_path / "bare")]) == 0
    assert json.loads(capsys.readouterr().out)["kl_to_unquantized"] is None
    assert "--data PATH measures it" in caplog.text
    assert main([*command, "--output", str(tmp_path / "measured"), "--data", str(text)]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert 0 < measured["kl_to_unquantized"] < 0.3
    assert measured["num_tokens"] == 32
    for folder in ("bare", "measured"):
        assert main(["fit", str(tmp_path / folder), "--context", "64", "--json"]) == 0
        fit = json.loads(capsys.readouterr().out)
        assert (fit["weights"], fit["weights_bytes"]) == (each, measured["weights_bytes_after"])
    assert main(["fit", str(source), "--weights", each, "--context", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights_bytes"] == measured["weights_bytes_after"]


def test_columns_that_no_group_divides_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape: HybridShape = make_tiny_shape(hidden_size=64)
    source = write_tiny_checkpoint(tmp_path / "source", shape=shape, dtype=torch.bfloat16)
    assert main(["quantize", str(source), "--format", "w4a16", "--output", str(tmp_path / "out")]) == 2
    assert (
        "w4a16 needs matrices of a multiple of 32 columns, backbone.layers.0.mixer.out_proj.weight is 64 x 40"
        in capsys.readouterr().err
    )
