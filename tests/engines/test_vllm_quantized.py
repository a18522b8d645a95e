"""Quantized checkpoints in vLLM on CPU against transformers with the numbers that the stored weights mean."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.headers import SINGLE_FILE
from minitron.integrations.quantize.divergence import rounded_activations, stored_model
from minitron.integrations.quantize.run import quantize_checkpoint
from minitron.integrations.quantize.settings import QuantizeSettings
from minitron.runtime.loading import load_model
from tests.engines.reference import NEW_TOKENS, PROMPTS, TOLERANCE, Answer, ask_model, logprobs_of
from tests.engines.run_vllm import NEEDS_VLLM, run_vllm
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_shape, write_tiny_checkpoint

pytestmark = NEEDS_VLLM

# Rows and columns that vLLM's 4-bit kernel for CPUs takes, in multiples of 32; groups of 32, 128 and 64 of them.
HYBRID = {"hidden_size": 96, "num_attention_heads": 6, "head_dim": 32, "mamba_num_heads": 32, "ssm_state_size": 16}
SHAPES = {
    "nemotron_h": make_tiny_shape(hybrid_override_pattern="M-*M-", intermediate_size=160, mamba_head_dim=8, **HYBRID),
    "llama": make_dense_shape("llama", hidden_size=384, intermediate_size=256, num_attention_heads=6, head_dim=64),
    "qwen3, tied": make_dense_shape(
        "qwen3", hidden_size=192, intermediate_size=320, head_dim=32, tie_word_embeddings=1
    ),
}
EXPERTS = make_moe_shape(
    hybrid_override_pattern="ME*E",
    moe_intermediate_size=64,
    moe_shared_expert_intermediate_size=128,
    mamba_head_dim=8,
    **HYBRID,
)
FORMATS = ("w8a8", "w4a16", "nvfp4", "fp8")
# vLLM has a kernel of CUDA between a gate and an fp8 projection.
WRITTEN = [(name, each) for name in SHAPES for each in FORMATS if each != "fp8" or name == "nemotron_h"]
# An activation that lies between two codes may fall to either, by the order of a sum, and all later tokens hear of it:
# measured up to 0.11 at a token and 0.024 in the mean over a prompt's, and a third of the tokens untouched; to the
# unquantized model the mean is 0.035 and more.
MEAN_TOLERANCE = 0.03


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sources by name, and quantized checkpoints by name and format."""
    root = tmp_path_factory.mktemp("quantized")
    text = root / "text.txt"
    text.write_text("\n---\n".join(f"line {i} of some text, {i * i}" for i in range(80)))
    found = {
        name: write_tiny_checkpoint(root / name, shape=shape, dtype=torch.bfloat16)
        for name, shape in (SHAPES | {"experts": EXPERTS}).items()
    }
    for name, each in [*WRITTEN, ("experts", "w8a8"), ("experts", "w4a16"), ("nemotron_h", "int8")]:
        settings = QuantizeSettings(format=each, data=str(text), samples=4, seq_len=32)
        quantize_checkpoint(found[name], settings, root / f"{name}, {each}")
        found[f"{name}, {each}"] = root / f"{name}, {each}"
    return found


def ask_vllm(folders: Sequence[Path], **options: object) -> list[list[Answer] | str]:
    request = {"models": [str(folder) for folder in folders], "prompts": PROMPTS, "new_tokens": NEW_TOKENS, **options}
    return [
        [Answer(tokens=one["tokens"], logprobs=torch.tensor(one["logprobs"])) for one in model]
        if isinstance(model, list)
        else model["error"]
        for model in run_vllm("vllm_tokens.py", request, folders[0])
    ]


@pytest.fixture(scope="module")
def answers(folders: dict[str, Path]) -> dict[str, list[Answer] | str]:
    """What vLLM says to every quantized checkpoint, kernels that it lacks on CPUs in torch."""
    names = [f"{name}, {each}" for name, each in WRITTEN]
    return dict(zip(names, ask_vllm([folders[name] for name in names], kernels_in_torch=True), strict=True))


@contextmanager
def meant(source: Path, written: Path, plain: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The model that the stored weights mean, its activations rounded as they are served."""
    checkpoint = open_checkpoint(written, quantized=True)
    model = stored_model(open_checkpoint(source), checkpoint, plain)
    if checkpoint.weights_format == "fp8":
        round_as_fp8(model, load_file(written / SINGLE_FILE), checkpoint.shape.family.name_in_memory)
    with rounded_activations(model, checkpoint):
        yield model


def round_as_fp8(model: PreTrainedModel, stored: Mapping[str, torch.Tensor], in_memory: Callable[[str], str]) -> None:
    """Activations in fp8; queries, keys and values a second time, at the largest scale of the three, as vLLM has it."""

    def as_fp8(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale

    for name in (name for name in stored if name.endswith(".input_scale")):
        module = model.get_submodule(in_memory(name.removesuffix(".input_scale")))
        module.register_forward_pre_hook(lambda _, args, scale=stored[name]: (as_fp8(args[0], scale),))
        block, _, projection = name.removesuffix(".input_scale").rpartition(".")
        if projection in ("q_proj", "k_proj", "v_proj"):
            largest = max(stored[f"{block}.{each}_proj.weight_scale"] for each in "qkv")
            module.weight.data = as_fp8(module.weight.data, largest)


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


def errors_of(model: PreTrainedModel, found: Sequence[Answer]) -> list[torch.Tensor]:
    """Distances of log-probabilities of each prompt and answer."""
    texts = [[*prompt, *answer.tokens] for prompt, answer in zip(PROMPTS, found, strict=True)]
    return [(logprobs_of(model, text) - answer.logprobs).abs() for text, answer in zip(texts, found, strict=True)]


def assert_near(errors: Sequence[torch.Tensor]) -> None:
    """A tenth of all tokens, before the first such fall, are as near as sums in another order; no prompt is far."""
    assert float((torch.cat([*errors]) < TOLERANCE).float().mean()) > 0.1
    assert max(float(error.mean()) for error in errors) < MEAN_TOLERANCE


def test_vllms_own_8_bit_kernel_computes_what_the_stored_weights_mean(folders: dict[str, Path], tmp_path: Path) -> None:
    # At codes up to 63 its products are whole on every CPU.
    halved = {name: copied(folders[f"{name}, w8a8"], tmp_path / name) for name in SHAPES}
    for folder in halved.values():
        tensors = load_file(folder / SINGLE_FILE)
        for name in (name for name, tensor in tensors.items() if tensor.dtype == torch.int8):
            tensors[name] = (tensors[name].float() / 2).trunc().clamp(-63, 63).to(torch.int8)
        save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})
    for (name, folder), found in zip(halved.items(), ask_vllm(list(halved.values())), strict=True):
        assert not isinstance(found, str), found
        with meant(folders[name], folder, load_model(folders[name])) as model:
            assert_near(errors_of(model, found))


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
        for found in ask_vllm(spoilt, kernels_in_torch=True):
            assert not isinstance(found, str), found
            assert min(float(error.mean()) for error in errors_of(model, found)) > 1000 * TOLERANCE


# What vLLM says of a checkpoint, type and kernels that it does not serve on this CPU; each ends its process.
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


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    assert json.loads((to / "config.json").read_text())["quantization_config"]["quant_method"] == "compressed-tensors"
    return to
