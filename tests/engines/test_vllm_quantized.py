"""Quantized checkpoints in vLLM on CPU against transformers with the numbers that the stored weights mean."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minitron.checkpoints.headers import SINGLE_FILE
from minitron.runtime.loading import load_model
from tests.engines.quantized import (
    MEAN_TOLERANCE,
    WRITTEN,
    ask_vllm,
    assert_near,
    copied,
    errors_of,
    meant,
    write_quantized,
)
from tests.engines.reference import PROMPTS, TOLERANCE, Answer, ask_model, ask_transformers, assert_same
from tests.engines.run_vllm import NEEDS_VLLM

pytestmark = NEEDS_VLLM

# vLLM's kernels for AVX-512 take no fp32, so every CPU acts as one without; test_vllm_own_kernels.py has them.
IN_TORCH = {"kernels_in_torch": True, "cpu": "avx2"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sources by name, and quantized checkpoints by name and format."""
    wanted = [*WRITTEN, ("experts", "w8a8"), ("experts", "w4a16"), ("nemotron_h", "int8")]
    return write_quantized(tmp_path_factory.mktemp("quantized"), wanted)


@pytest.fixture(scope="module")
def answers(folders: dict[str, Path]) -> dict[str, list[Answer] | str]:
    """What vLLM says to every quantized checkpoint in fp32, kernels that it lacks on CPUs without AVX-512 in torch."""
    names = [f"{name}, {each}" for name, each in WRITTEN]
    return dict(zip(names, ask_vllm([folders[name] for name in names], **IN_TORCH), strict=True))


@pytest.mark.parametrize(("name", "each"), WRITTEN)
def test_vllm_computes_what_the_stored_weights_mean(
    folders: dict[str, Path],
    answers: dict[str, list[Answer] | str],
    name: str,
    each: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = answers[f"{name}, {each}"]
    assert not isinstance(found, str), found
    plain = load_model(folders[name])
    with meant(folders[name], folders[f"{name}, {each}"], plain) as model:
        errors, others = errors_of(model, found), errors_of(plain, found)
        if each == "w4a16":  # activations are not rounded
            assert [answer.tokens for answer in found] == [ask_model(model, prompt).tokens for prompt in PROMPTS]
            assert float(torch.cat(errors).max()) < TOLERANCE
    assert_near(errors)
    assert min(float(error.mean()) for error in others) > MEAN_TOLERANCE
    with capsys.disabled():
        largest, means = float(torch.cat(errors).max()), [float(torch.cat(each).mean()) for each in (errors, others)]
        print(f"\n{name}, {each}: largest {largest:.1e}, mean {means[0]:.1e}; to the unquantized model {means[1]:.1e}")


def swap_nibbles(packed: torch.Tensor) -> torch.Tensor:
    raw = packed.view(torch.uint8)
    return (raw << 4 | raw >> 4).view(torch.int32)


def count_from_the_other_end(packed: torch.Tensor) -> torch.Tensor:
    return packed.view(torch.uint8).unflatten(-1, (-1, 4)).flip(-1).flatten(-2).view(torch.int32)


def turn_signs(packed: torch.Tensor) -> torch.Tensor:
    return packed ^ torch.tensor(-2004318072, dtype=torch.int32)  # 0x88888888: two's complement, not 8 above


WRONG = (swap_nibbles, count_from_the_other_end, turn_signs)


def test_another_packing_is_noticed(folders: dict[str, Path], tmp_path: Path) -> None:
    right = folders["llama, w4a16"]
    spoilt = [copied(right, tmp_path / wrong.__name__) for wrong in WRONG]
    for wrong, folder in zip(WRONG, spoilt, strict=True):
        tensors = load_file(folder / SINGLE_FILE)
        packed = {name: wrong(tensor) for name, tensor in tensors.items() if name.endswith("weight_packed")}
        save_file(tensors | packed, folder / SINGLE_FILE, metadata={"format": "pt"})
    with meant(folders["llama"], right, load_model(folders["llama"])) as model:
        for found in ask_vllm(spoilt, **IN_TORCH):
            assert not isinstance(found, str), found
            assert min(float(error.mean()) for error in errors_of(model, found)) > 1000 * TOLERANCE


# What vLLM says of a checkpoint and type that it does not serve on any CPU.
REFUSED = {
    ("nemotron_h, int8", "bfloat16"): "ModelOpt currently only supports: ['FP8', ",
    ("nemotron_h, fp8", "bfloat16"): "static_scaled_fp8_quant",
    ("nemotron_h, nvfp4", "bfloat16"): "Failed to find a kernel that can implement the NVFP4 linear layer",
    ("experts, w8a8", "float32"): "is_act_and_mul=False is supported only for CUDA",
    ("experts, w4a16", "float32"): "is_act_and_mul=False is supported only for CUDA",
}


@pytest.mark.parametrize(("what", "dtype"), REFUSED)
def test_what_vllm_does_not_serve_on_a_cpu_is_refused_by_vllm_itself(
    folders: dict[str, Path], what: str, dtype: str
) -> None:
    (found,) = ask_vllm([folders[what]], dtype=dtype)
    assert isinstance(found, str)
    assert REFUSED[what, dtype] in found, found


def test_a_model_that_vllm_refuses_leaves_the_next_one_alone(folders: dict[str, Path]) -> None:
    refused, found = ask_vllm([folders["experts, w8a8"], folders["llama"]])
    assert isinstance(refused, str)
    assert not isinstance(found, str), found
    assert_same(ask_transformers(folders["llama"]), found)
