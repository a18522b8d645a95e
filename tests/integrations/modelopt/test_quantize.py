"""Quantized checkpoints: what is stored means the source's weights, lists are mended, and bytes are as predicted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.headers import SINGLE_FILE
from minitron.cli.main import main
from minitron.data.sequences import blend_sources
from minitron.data.sources import TextSource
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.integrations.modelopt.quantize.export import calibration_loop, fake_quantize
from minitron.integrations.modelopt.quantize.ignore_lists import HF_QUANT_CONFIG, repaired_name, stated_lists
from minitron.integrations.quantize import dequantize
from minitron.integrations.quantize.dequantize import check_weights, dequantized, half_step, meant_tensors
from minitron.integrations.quantize.folder import check_ignored
from minitron.integrations.quantize.run import quantize_checkpoint
from minitron.integrations.quantize.settings import QUANTIZED_FORMATS, QuantizeSettings
from minitron.models.config import config_for_shape
from minitron.models.shape import HybridShape
from minitron.runtime.building import assemble_model, config_of
from minitron.runtime.loading import load_model, load_tokenizer
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_shape, write_tiny_checkpoint

FORMATS = tuple(name for name, each in QUANTIZED_FORMATS.items() if each.modelopt is not None)
# How far the noise of the stored weights may be from the simulated one, as a share of it; two unrelated noises are 1.41
# apart. ModelOpt rounds fp8's quotients to bf16 first, so that one weight in about thirty falls to its other neighbor,
# and averages AWQ's scales of matrices that share a norm.
SIMULATED_SHARE = {"fp8": 0.75, "int8": 0.1, "int8-smoothquant": 0.1, "int4-awq": 0.3}


def make_even_shape() -> HybridShape:
    """Dims that int4's groups of 128 divide, all distinct still."""
    return make_tiny_shape(
        hybrid_override_pattern="M-*M-",
        hidden_size=256,
        intermediate_size=384,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        mamba_num_heads=10,
        mamba_head_dim=64,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The source, a text, and a checkpoint in every format."""
    root = tmp_path_factory.mktemp("quantized")
    source = write_tiny_checkpoint(root / "source", shape=make_even_shape(), dtype=torch.bfloat16)
    text = root / "text.txt"
    text.write_text("\n---\n".join(f"line {i} of some text, {i * i}" for i in range(80)))
    found = {"source": source, "text": text}
    for name in FORMATS:
        settings = QuantizeSettings(format=name, data=str(text), samples=4, seq_len=32)
        measured = quantize_checkpoint(source, settings, root / name)
        assert 0 < float(measured["kl_to_unquantized"] or 0) < 1
        found[name] = root / name
    return found


def copied(folders: dict[str, Path], name: str, tmp_path: Path) -> Path:
    shutil.copytree(folders[name], tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("name", FORMATS)
def test_every_name_on_the_lists_is_a_module_that_is_not_quantized(folders: dict[str, Path], name: str) -> None:
    written = open_checkpoint(folders[name], quantized=True)
    check_ignored(written, stated_lists(written))
    beside = json.loads((folders[name] / HF_QUANT_CONFIG).read_text())["quantization"]["exclude_modules"]
    for names in (written.config["quantization_config"]["ignore"], beside):
        assert "lm_head" in names
        assert not any("\0" in each or "sentinel" in each for each in names)
        assert all(f"{each}.weight" in written.tensors for each in names)
    assert {
        each.removesuffix(".weight_scale") + ".weight" for each in written.scales if each.endswith("weight_scale")
    } == {each for each in written.tensors if each.endswith("proj.weight")}


@pytest.mark.parametrize(
    ("ignored", "message"),
    [
        (["lm_head.\0x", "backbone.embeddings"], "is none"),
        (["backbone.embeddings"], "it lacks lm_head"),
        (["lm_head", "backbone.embeddings", "backbone.layers.0.mixer.in_proj"], "must not name quantized modules"),
    ],
)
def test_a_broken_list_is_refused(folders: dict[str, Path], tmp_path: Path, ignored: list[str], message: str) -> None:
    folder = copied(folders, "fp8", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["ignore"] = ignored
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        written = open_checkpoint(folder, quantized=True)
        check_ignored(written, stated_lists(written))


def test_a_garbled_name_is_cut_and_a_whole_one_stays() -> None:
    assert repaired_name("lm_head.\0backbone.pt_name_sentinel") == "lm_head"
    assert repaired_name("backbone.embeddings") == "backbone.embeddings"


@pytest.mark.parametrize("name", FORMATS)
def test_names_and_configuration_are_those_of_the_source(folders: dict[str, Path], name: str) -> None:
    source, written = open_checkpoint(folders["source"]), open_checkpoint(folders[name], quantized=True)
    assert set(written.tensors) == set(source.tensors)
    assert "backbone.embeddings.weight" in written.tensors
    assert (written.shape, written.params) == (source.shape, source.params)
    for key in ("hybrid_override_pattern", "layers_block_type", "num_hidden_layers"):
        assert written.config[key] == source.config[key]
    assert (folders[name] / "tokenizer.json").read_bytes() == (folders["source"] / "tokenizer.json").read_bytes()
    assert not (folders[name] / "export").exists()


@pytest.mark.parametrize("name", ["fp8", "int8", "int4-awq", "nvfp4"])
def test_stored_bytes_are_the_predicted_ones(folders: dict[str, Path], name: str) -> None:
    written = open_checkpoint(folders[name], quantized=True)
    assert written.weights_format == QUANTIZED_FORMATS[name].precision
    workload = Workload(context_tokens=1, weights_dtype=written.weights_format)
    assert written.weights_bytes == memory_bytes(written.shape, workload).weights_bytes
    assert written.weights_bytes == sum(tensor.nbytes for tensor in load_file(folders[name] / SINGLE_FILE).values())


@pytest.mark.parametrize("name", FORMATS)
def test_every_stored_weight_is_within_half_a_step(
    folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, written = open_checkpoint(folders["source"]), open_checkpoint(folders[name], quantized=True)
    plain = 1.1 if "smooth" not in name and "awq" not in name else 3
    furthest = check_weights(source, written)
    assert 0.9 < furthest < plain
    monkeypatch.setattr(dequantize, "CHUNK_NUMBERS", 5 * 256)  # rows by rows
    assert check_weights(source, written) == furthest


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("spoilt", ["backbone.layers.2.mixer.q_proj.weight", "backbone.layers.1.norm.weight"])
def test_one_spoilt_number_is_found(folders: dict[str, Path], tmp_path: Path, name: str, spoilt: str) -> None:
    folder = copied(folders, name, tmp_path)
    tensors = load_file(folder / SINGLE_FILE)
    raw = tensors[spoilt].view(torch.uint8).flatten()
    raw[3] ^= 0x40
    tensors[spoilt] = raw.view(tensors[spoilt].dtype).reshape(tensors[spoilt].shape)
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"within half a step|must be what it was"):
        check_weights(open_checkpoint(folders["source"]), open_checkpoint(folder, quantized=True))


@pytest.mark.parametrize("name", SIMULATED_SHARE)
def test_the_stored_model_computes_what_modelopt_simulated(
    folders: dict[str, Path], name: str, token_ids: torch.Tensor
) -> None:
    import modelopt.torch.quantization as mtq

    source, written = open_checkpoint(folders["source"]), open_checkpoint(folders[name], quantized=True)
    text_NT = blend_sources(
        [TextSource(path=str(folders["text"]))], load_tokenizer(source.folder), seq_len=32, num_sequences=4, seed=0
    )
    simulated = load_model(source.folder, dtype=torch.bfloat16)
    fake_quantize(simulated, name, calibration_loop(text_NT, 8))
    mtq.disable_quantizer(simulated, "*input_quantizer")  # the stored model's activations are not rounded here
    if name == "fp8":  # the export gives matrices that read the same activations one scale, the largest
        attention = simulated.base_model.layers[2].mixer
        sharing = [attention.q_proj, attention.k_proj, attention.v_proj]
        largest = max(float(each.weight_quantizer.amax) for each in sharing)
        for each in sharing:
            each.weight_quantizer.amax = torch.tensor(largest)
    family = source.shape.family
    teacher = load_model(source.folder)
    state = {family.name_in_memory(tensor): value for tensor, value in meant_tensors(source, written)}
    meant = assemble_model(teacher, config_for_shape(config_of(teacher), source.shape), source.shape, state)
    with torch.no_grad():
        plain = teacher(token_ids).logits
        ours = meant(token_ids).logits - plain
        theirs = simulated.float()(token_ids).logits - plain
    assert float((ours - theirs).norm()) < SIMULATED_SHARE[name] * float(theirs.norm())


def test_dequantizing_equals_a_count_by_hand() -> None:
    packed_RC = torch.tensor([[0x1F, 0x80]], dtype=torch.uint8)  # rows (-1, 0) and (1, -8)
    numbers_RC = dequantized("int4", packed_RC, torch.tensor([[0.5], [2.0]]))
    assert numbers_RC.tolist() == [[-0.5, 0.0], [2.0, -16.0]]
    assert dequantized("int8", torch.tensor([[3, -2]], dtype=torch.int8), torch.tensor([0.5])).tolist() == [[1.5, -1.0]]
    eight = torch.tensor([[1.5, -448.0]]).to(torch.float8_e4m3fn)
    assert dequantized("fp8", eight, torch.tensor(2.0)).tolist() == [[3.0, -896.0]]


def test_no_number_in_range_is_further_than_half_a_step_from_the_nearest_fp8() -> None:
    weight_RC = torch.linspace(-448, 448, 20001)[None] * torch.logspace(-6, 0, 7)[:, None]
    error_RC = (weight_RC.to(torch.float8_e4m3fn).float() - weight_RC).abs()
    share = error_RC / half_step("fp8", weight_RC, torch.tensor(1.0))
    assert 0.9 < float(share.max()) <= 1


def test_quantized_weights_are_refused_where_numbers_are_needed(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="the weights must not be quantized here, those of .* are fp8"):
        load_model(folders["fp8"])


@pytest.mark.parametrize("name", FORMATS)
def test_fit_counts_what_is_stored(folders: dict[str, Path], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(folders[name]), "--context", "64", "--accounting", "vllm", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["weights"] == QUANTIZED_FORMATS[name].precision
    assert answer["weights_bytes"] == open_checkpoint(folders[name], quantized=True).weights_bytes
    assert answer["params"] == make_even_shape().params
    assert "--quantization" not in answer["serve"]


def test_the_verb_prints_one_object_and_writes_a_folder(
    folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["quantize", str(folders["source"]), "--format", "int8", "--data", str(folders["text"])]
    command += ["--output", str(tmp_path / "out"), "--samples", "2", "--seq-len", "16"]
    assert main([*command, "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["weights_bytes_after"] == open_checkpoint(tmp_path / "out", quantized=True).weights_bytes
    assert answer["weights_bytes_after"] < answer["weights_bytes_before"]
    assert main([*command, "--json"]) == 0  # made from the same inputs: taken as it is
    assert json.loads(capfd.readouterr().out) == answer
    assert main([*command, "--seed", "1"]) == 2
    assert "must be new or empty" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ["--format", "nvfp5"],
            "a format must be one of fp8, w8a8, w4a16, nvfp4, int8, int8-smoothquant, int4-awq, got",
        ),
        (
            ["--format", "nvfp4"],
            "nvfp4 needs matrices of a multiple of 16 columns, backbone.layers.0.mixer.in_proj.weight",
        ),
        (["--format", "int4-awq"], "a multiple of 128 columns, backbone.layers.0.mixer.in_proj.weight is 116 x 22"),
        (["--device", "cuda"], "torch sees no CUDA device"),
        (["--data", "nowhere.txt"], "a text source must be a file that is there, nowhere.txt is not"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    if "cuda" in change and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    text = tmp_path / "text.txt"
    text.write_text("some text " * 40)
    command = ["quantize", str(tiny_checkpoint), "--format", "fp8", "--data", str(text)]
    assert main([*command, "--output", str(tmp_path / "out"), *change]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("minitron: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_source_in_fp32_is_quantized_from_its_16_bit_rounding(tiny_checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some text " * 40)
    settings = QuantizeSettings(format="int8", data=str(text), samples=2, seq_len=16)
    measured = quantize_checkpoint(tiny_checkpoint, settings, tmp_path / "out")
    written = open_checkpoint(tmp_path / "out", quantized=True)
    assert {written.tensors[name].dtype for name in ("lm_head.weight", "backbone.norm_f.weight")} == {"BF16"}
    assert measured["weights_bytes_before"] == 4 * measured["params"]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (make_dense_shape("qwen3", tie_word_embeddings=1), torch.bfloat16),
        (make_dense_shape("llama"), torch.bfloat16),
        (make_moe_shape(), torch.float32),
        (make_moe_shape(moe_latent_size=9), torch.bfloat16),
    ],
    ids=["tied", "llama", "experts in fp32", "latent experts"],
)
def test_every_family_is_quantized(tmp_path: Path, folders: dict[str, Path], shape: HybridShape, dtype: Any) -> None:
    source = write_tiny_checkpoint(tmp_path / "source", shape=shape, dtype=dtype)
    settings = QuantizeSettings(format="int8", data=str(folders["text"]), samples=4, seq_len=32)
    assert 0 < float(quantize_checkpoint(source, settings, tmp_path / "int8")["kl_to_unquantized"] or 0) < 0.01
    written = open_checkpoint(tmp_path / "int8", quantized=True)
    assert written.shape == shape
    workload = Workload(context_tokens=1, weights_dtype="int8")
    assert written.weights_bytes == memory_bytes(shape, workload).weights_bytes
