"""Quantized checkpoints of tiny models, what vLLM on CPU says to them, and the model that their stored weights mean."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.headers import SINGLE_FILE
from minitron.integrations.quantize.divergence import rounded_activations, stored_model
from minitron.integrations.quantize.run import quantize_checkpoint
from minitron.integrations.quantize.settings import QuantizeSettings
from tests.engines.reference import NEW_TOKENS, PROMPTS, TOLERANCE, Answer, logprobs_of
from tests.engines.run_vllm import run_vllm
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_shape, write_tiny_checkpoint

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


def write_quantized(root: Path, wanted: Sequence[tuple[str, str]]) -> dict[str, Path]:
    """Sources by name, and of each wanted name and format the quantized checkpoint as `NAME, FORMAT`."""
    text = root / "text.txt"
    text.write_text("\n---\n".join(f"line {i} of some text, {i * i}" for i in range(80)))
    found = {
        name: write_tiny_checkpoint(root / name, shape=shape, dtype=torch.bfloat16)
        for name, shape in (SHAPES | {"experts": EXPERTS}).items()
    }
    for name, each in wanted:
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


def errors_of(model: PreTrainedModel, found: Sequence[Answer]) -> list[torch.Tensor]:
    """Distances of log-probabilities of each prompt and answer."""
    texts = [[*prompt, *answer.tokens] for prompt, answer in zip(PROMPTS, found, strict=True)]
    return [(logprobs_of(model, text) - answer.logprobs).abs() for text, answer in zip(texts, found, strict=True)]


def assert_near(errors: Sequence[torch.Tensor]) -> None:
    """A tenth of all tokens, before the first such fall, are as near as sums in another order; no prompt is far."""
    assert float((torch.cat([*errors]) < TOLERANCE).float().mean()) > 0.1
    assert max(float(error.mean()) for error in errors) < MEAN_TOLERANCE


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    assert json.loads((to / "config.json").read_text())["quantization_config"]["quant_method"] == "compressed-tensors"
    return to
