"""What configurations say of quantization, as the tools that write them spell it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.headers import INDEX_FILE, SINGLE_FILE, read_headers
from minitron.checkpoints.quantization import BESIDE_FILE, config_dtype, find_quantization
from minitron.cli.main import main
from minitron.errors import CheckpointError
from tests.support.commands import fail
from tests.support.models import write_tiny_checkpoint


def packed(bits: int) -> dict[str, Any]:
    return {"config_groups": {"group_0": {"weights": {"num_bits": bits}}}, "format": "pack-quantized"}


# quantization_config -> (what it is called, layout that is read, nearest number format)
SAID: dict[str, tuple[dict[str, Any], tuple[str, str | None, str | None]]] = {
    "fp8": ({"quant_method": "modelopt", "quant_algo": "FP8"}, ("modelopt FP8", "fp8", "fp8")),
    "nvfp4": ({"quant_algo": "NVFP4"}, ("modelopt NVFP4", "nvfp4", "nvfp4")),
    "mixed": ({"quant_algo": "MIXED_PRECISION"}, ("modelopt MIXED_PRECISION", None, None)),
    "w4a8": ({"quant_algo": "W4A8_AWQ"}, ("modelopt W4A8_AWQ", None, "int4")),
    "w8a8": (
        {"quant_method": "compressed-tensors", "format": "int-quantized"},
        ("compressed-tensors int-quantized", "w8a8", "w8a8"),
    ),
    "w4a16": (
        {"quant_method": "compressed-tensors", **packed(4)},
        ("compressed-tensors pack-quantized", "w4a16", "w4a16"),
    ),
    "w8a16": (
        {"quant_method": "compressed-tensors", **packed(8)},
        ("compressed-tensors pack-quantized", None, "int8"),
    ),
    "float": (
        {"quant_method": "compressed-tensors", "format": "float-quantized"},
        ("compressed-tensors float-quantized", None, "fp8"),
    ),
    "block fp8": (
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        ("fp8 in blocks of 128x128", None, "fp8"),
    ),
    "gptq": ({"quant_method": "gptq", "bits": 4}, ("gptq (4 bits)", None, "int4")),
    "awq": ({"quant_method": "awq", "bits": 4}, ("awq (4 bits)", None, "int4")),
    "bnb 4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, ("bitsandbytes (4 bits)", None, "int4")),
    "bnb 8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, ("bitsandbytes (8 bits)", None, "int8")),
    "mxfp4": ({"quant_method": "mxfp4"}, ("mxfp4", None, "nvfp4")),
    "unheard of": ({"quant_method": "spqr"}, ("spqr", None, None)),
    "3 bits": ({"quant_method": "hqq", "bits": 3}, ("hqq (3 bits)", None, None)),
}


@pytest.mark.parametrize("name", SAID)
def test_a_method_is_named_with_the_layout_that_is_read_and_the_nearest_format(name: str) -> None:
    given, expected = SAID[name]
    found = find_quantization({"quantization_config": given})
    assert found is not None
    assert (found.method, found.layout, found.nearest) == expected


def test_modelopt_s_own_file_counts_where_the_configuration_says_nothing(tmp_path: Path) -> None:
    (tmp_path / BESIDE_FILE).write_text(json.dumps({"producer": {}, "quantization": {"quant_algo": "FP8"}}))
    found = find_quantization({}, tmp_path)
    assert found is not None
    assert found.layout == "fp8"
    other = find_quantization({"quantization_config": {"quant_algo": "NVFP4"}}, tmp_path)
    assert other is not None
    assert other.layout == "nvfp4"


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({}, "bf16"),
        ({"torch_dtype": "float32"}, "fp32"),
        ({"dtype": "float16", "torch_dtype": "float32"}, "fp16"),
        ({"dtype": "auto"}, "bf16"),
        ({"dtype": "bfloat16", "quantization_config": {"quant_algo": "FP8"}}, "fp8"),
    ],
)
def test_a_configuration_alone_counts_by_what_it_says(config: dict[str, Any], dtype: str) -> None:
    assert config_dtype(config, find_quantization(config)) == dtype


def test_what_is_not_known_is_asked_for() -> None:
    found = find_quantization({"quantization_config": {"quant_method": "spqr"}})
    with pytest.raises(CheckpointError, match="quantized by spqr take is not known; give it with --weights"):
        config_dtype({}, found)


def test_a_quantization_config_that_is_no_object_is_refused() -> None:
    with pytest.raises(CheckpointError, match="must be an object with a quant_method, got 'FP8'"):
        find_quantization({"quantization_config": "FP8"})


def write_quantized(folder: Path, quantization: dict[str, Any]) -> Path:
    """Half of a matrix's bytes, and tensors of names that no layout here has."""
    write_tiny_checkpoint(folder, dtype=torch.bfloat16)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    tensors = load_file(folder / SINGLE_FILE)
    del tensors["backbone.layers.1.mixer.up_proj.weight"]
    tensors["backbone.layers.1.mixer.up_proj.qweight"] = torch.zeros(36, 3, dtype=torch.int32)
    tensors["backbone.layers.1.mixer.up_proj.g_idx"] = torch.zeros(22, dtype=torch.int32)
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})
    return folder


METHODS = [name for name, (_, (_, layout, _)) in SAID.items() if layout is None]


@pytest.mark.parametrize("name", METHODS)
def test_fit_counts_what_is_stored_and_what_computes_names_the_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    given, (method, _, nearest) = SAID[name]
    folder = write_quantized(tmp_path / "quantized", given)
    assert main(["fit", str(folder), "--context", "64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["weights_bytes"] == sum(stored.nbytes for stored in read_headers(folder).values())
    (tmp_path / "text.txt").write_text("text")
    line = fail(capsys, "score", str(folder), "--data", str(tmp_path / "text.txt"), "--output", str(tmp_path / "new"))
    assert f"({method}); give the checkpoint they were made from" in line
    alone = ["fit", str(folder / "config.json"), "--context", "64", "--json"]
    if nearest is None:
        assert "is not known; give it with --weights" in fail(capsys, *alone)
    else:
        assert main(alone) == 0
        assert json.loads(capsys.readouterr().out)["weights"] == nearest


def test_a_configuration_counts_as_its_folder_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny_checkpoint(tmp_path / "fp32")
    totals = []
    for model in (folder, folder / "config.json"):
        assert main(["fit", str(model), "--context", "64", "--json"]) == 0
        totals.append(json.loads(capsys.readouterr().out)["total_bytes"])
    assert totals[0] == totals[1]


@pytest.mark.parametrize(("total", "counted"), [(30_000, True), (1, False), (10**9, False), ("many", False)])
def test_an_index_beside_a_quantized_configuration_says_what_its_files_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], total: Any, counted: bool
) -> None:
    folder = write_quantized(tmp_path / "quantized", SAID["gptq"][0])
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": {}}))
    assert main(["fit", str(folder / "config.json"), "--context", "64", "--json"]) == 0
    assert (json.loads(capsys.readouterr().out)["weights_bytes"] == total) is counted


def test_scales_of_a_cache_are_counted_and_not_taken_for_tensors_of_the_model(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "fp8")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_algo": "FP8"}}))
    before = open_checkpoint(folder, quantized=True).weights_bytes
    tensors = load_file(folder / SINGLE_FILE)
    for name in ("k_proj.k_scale", "v_proj.v_scale"):
        tensors[f"backbone.layers.2.mixer.{name}"] = torch.ones(())
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})
    assert open_checkpoint(folder, quantized=True).weights_bytes == before + 8
