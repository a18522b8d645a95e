"""vLLM's own kernels for quantized weights, of every kind of CPU that this one is or can act as, layer by layer."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.headers import SINGLE_FILE
from minitron.runtime.loading import load_model
from tests.engines.quantized import SHAPES, WRITTEN, ask_vllm, assert_near, copied, errors_of, meant, write_quantized
from tests.engines.reference import Answer
from tests.engines.run_vllm import NEEDS_VLLM
from tests.engines.vllm_cpu import KERNELS, kinds_of_cpu

pytestmark = NEEDS_VLLM


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """How a kernel computes, and how far a layer's outputs may be from their float64 meaning, relative.

    Rounding outputs to bf16 makes 1.7e-3. Activations that are rounded to int8 on one side alone would make 7e-3 and
    more; the unquantized weights 9e-3 (`w8a8`), 0.026 (`fp8`) and 0.09 (`w4a16`).
    """

    dtype: str
    int8_activations: bool
    tolerance: float


HOW = {
    # In fp32, 5e-8, but for activations that lie between two codes, which may fall to either: 3e-4.
    "onednn_scaled_mm": Kernel(dtype="float32", int8_activations=True, tolerance=1e-3),
    "int8_scaled_mm_with_quant": Kernel(dtype="bfloat16", int8_activations=True, tolerance=2.5e-3),
    # With AMX vLLM rounds the activations of 4-bit weights to int8, unless VLLM_CPU_INT4_W4A8=0.
    "int4_scaled_mm_cpu": Kernel(dtype="bfloat16", int8_activations=True, tolerance=2.5e-3),
    # Weights, too, are rounded to bf16, measured 4.9e-3.
    "cpu_gemm_wna16": Kernel(dtype="bfloat16", int8_activations=False, tolerance=6e-3),
    # With AMX vLLM leaves the activations of fp8 weights in bf16.
    "fp8_scaled_mm_cpu": Kernel(dtype="bfloat16", int8_activations=False, tolerance=2.5e-3),
}
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
HERE = [(kind, each) for kind in kinds_of_cpu(torch.cpu.get_capabilities()) for each in KERNELS[kind]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sources by name, and quantized checkpoints by name and format."""
    return write_quantized(tmp_path_factory.mktemp("quantized"), [one for one in WRITTEN if one[1] != "nvfp4"])


@pytest.mark.parametrize(("kind", "each"), HERE)
def test_vllms_own_kernel_computes_what_the_stored_weights_mean(
    folders: dict[str, Path], tmp_path: Path, kind: str, each: str, capsys: pytest.CaptureFixture[str]
) -> None:
    how = HOW[KERNELS[kind][each]]
    written = {name: folders[f"{name}, {each}"] for name in SHAPES if (name, each) in WRITTEN}
    if (kind, each) == ("avx2", "w8a8"):  # at codes up to 63 its products are whole without VNNI
        written = {name: halved(folder, tmp_path / name) for name, folder in written.items()}
    files = [tmp_path / f"{name}.safetensors" for name in written]
    answers = ask_layers(kind, each, list(written.values()), files)
    for (name, folder), file, answer in zip(written.items(), files, answers, strict=True):
        with safe_open(file, "pt") as opened:
            assert KERNELS[kind][each] in opened.metadata()["operators"].split()
        errors = errors_of_layers(folders[name], folder, file, int8_activations=how.int8_activations)
        assert max(errors.values()) < how.tolerance, errors
        if how.dtype == "float32":
            with meant(folders[name], folder, load_model(folders[name])) as model:
                assert_near(errors_of(model, answer))
        with capsys.disabled():
            largest = max(errors.values())
            print(f"\n{kind}, {name}, {each}: {KERNELS[kind][each]}, {how.dtype}, {len(errors)} layers, {largest:.1e}")


def test_without_vnni_vllms_8_bit_product_saturates(folders: dict[str, Path], tmp_path: Path) -> None:
    written, file = folders["nemotron_h, w8a8"], tmp_path / "layers.safetensors"
    ask_layers("avx2", "w8a8", [written], [file])
    assert min(errors_of_layers(folders["nemotron_h"], written, file, int8_activations=True).values()) > 0.01


def ask_layers(kind: str, each: str, written: list[Path], files: list[Path]) -> list[list[Answer]]:
    """vLLM's answers as on a kind of CPU; it writes what quantized layers read and gave."""
    dtype, layers = HOW[KERNELS[kind][each]].dtype, [str(file) for file in files]
    # Before the product q, k and v of fp8 are rounded again at loading, for which vLLM has no kernel on CPUs.
    options = {"fp8_rounding_in_torch": each == "fp8"}
    answers = []
    for found in ask_vllm(written, cpu=kind, dtype=dtype, layers=layers, **options):
        assert not isinstance(found, str), found
        answers.append(found)
    return answers


@torch.no_grad()
def errors_of_layers(source: Path, written: Path, file: Path, *, int8_activations: bool) -> dict[str, float]:
    """By layer, the relative distance of outputs to the float64 product of what it read and what its weights mean."""
    recorded, checkpoint = load_file(file), open_checkpoint(written, quantized=True)
    names = (name.removesuffix(".weight") for name in checkpoint.tensors if checkpoint.is_quantized(name))
    left = {checkpoint.shape.family.name_in_memory(name) for name in names}
    errors = {}
    with meant(source, written, load_model(source)) as model:
        for layer in (name.removesuffix(".input") for name in recorded if name.endswith(".input")):
            weight = torch.cat([model.get_submodule(part).weight for part in parts_of(layer)]).double()
            x, found = recorded[f"{layer}.input"].double(), recorded[f"{layer}.output"].double()
            if int8_activations:
                step = x.abs().amax(dim=-1, keepdim=True) / 127
                x = (x / step).round() * step
            errors[layer] = float((found - x @ weight.T).norm() / found.norm())
            left -= set(parts_of(layer))
    assert not left
    return errors


def parts_of(layer: str) -> Iterator[str]:
    """The stored layers that vLLM fuses into one of its own."""
    block, _, name = layer.rpartition(".")
    return (f"{block}.{part}" for part in FUSED.get(name, (name,)))


def halved(folder: Path, to: Path) -> Path:
    """A copy with 8-bit codes up to 63."""
    tensors = load_file(copied(folder, to) / SINGLE_FILE)
    for name in (name for name, tensor in tensors.items() if tensor.dtype == torch.int8):
        tensors[name] = (tensors[name].float() / 2).trunc().clamp(-63, 63).to(torch.int8)
    save_file(tensors, to / SINGLE_FILE, metadata={"format": "pt"})
    return to
