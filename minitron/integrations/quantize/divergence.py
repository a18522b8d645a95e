"""What quantization costs: KL to the unquantized model, computed with the weights as they are stored."""

# T tokens, C columns

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.finite import naming_weights
from minitron.checkpoints.names import gather_state, read_place
from minitron.checkpoints.places import model_places
from minitron.checkpoints.weights import open_weights
from minitron.data.masks import TokenSequences
from minitron.data.sequences import blend_sources
from minitron.data.sources import TextSource
from minitron.data.token_ids import require_model_ids
from minitron.evaluate.perplexity import evaluate_text
from minitron.integrations.quantize.dequantize import E2M1, meant_tensors
from minitron.integrations.quantize.folder import export_dtype
from minitron.integrations.quantize.settings import QuantizeSettings
from minitron.models.config import config_for_shape
from minitron.runtime.building import assemble_model, config_of
from minitron.runtime.dtypes import torch_dtype
from minitron.runtime.loading import load_model, load_tokenizer

PreHook = Callable[[nn.Module, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]
NVFP4_BLOCK = 16
E4M3_MAX = 448.0


def text_sequences(source: Checkpoint, settings: QuantizeSettings) -> TokenSequences:
    """The settings' text as packed sequences of the checkpoint's tokens.

    Raises:
        MinitronError: The text cannot be read, or the tokenizer is of another model.
    """
    assert settings.data is not None
    tokenizer = load_tokenizer(source.folder)
    sequences_NT = blend_sources(
        [TextSource(path=settings.data)],
        tokenizer,
        seq_len=settings.seq_len,
        num_sequences=settings.samples,
        seed=settings.seed,
    )
    require_model_ids(sequences_NT, tokenizer, source.shape.vocab_size)
    return sequences_NT


def kl_of_stored(
    source: Checkpoint, written: Checkpoint, settings: QuantizeSettings, sequences_NT: TokenSequences
) -> float:
    """KL(unquantized || quantized), nats a token, of the weights that a quantized checkpoint holds.

    Both compute in the 16-bit type of what is not quantized. Activations are rounded as the format has it, but for
    those inside routed experts.
    """
    teacher = load_model(source.folder, device=settings.device, dtype=torch_dtype(export_dtype(source)))
    meant = stored_model(source, written, teacher)
    with rounded_activations(meant, written), naming_weights(source):
        kl = evaluate_text(meant, sequences_NT, teacher=teacher, batch_size=settings.batch_size).kl_to_teacher
    assert kl is not None
    return kl


def stored_model(source: Checkpoint, written: Checkpoint, like: PreTrainedModel) -> PreTrainedModel:
    """A model of plain numbers that are what the stored ones mean, in the types of the source's loaded model."""
    places, types = model_places(source.shape), like.state_dict()
    tensors = (
        (name, tensor.to(read_place(types, places[name]).dtype)) for name, tensor in meant_tensors(source, written)
    )
    state = gather_state(tensors, places)
    return assemble_model(like, config_for_shape(config_of(like), source.shape), source.shape, state)


@contextmanager
def rounded_activations(model: PreTrainedModel, written: Checkpoint) -> Iterator[None]:
    """Rounds what quantized linear layers read, while the block lasts, where the format's engines do that by token."""
    places = model_places(written.shape)
    with ExitStack() as stack, open_weights(written) as read:
        for name in written.tensors:
            if not written.is_quantized(name) or places[name].entry is not None:
                continue
            round_input = _round_input(written, name.removesuffix(".weight"), read)
            if round_input is not None:
                module = model.get_submodule(places[name].name.removesuffix(".weight"))
                stack.callback(module.register_forward_pre_hook(round_input).remove)
        yield


def round_tokens(x_TC: torch.Tensor) -> torch.Tensor:
    """Activations as int8 with a scale a token holds them, in the type they come in.

    Source: vLLM 0.32.0, csrc/cpu/dnnl_kernels.cpp: the largest magnitude is 127; ties go to even.
    """
    scale_T1 = (x_TC.float().abs().amax(dim=-1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return ((x_TC.float() / scale_T1).round() * scale_T1).to(x_TC.dtype)


def round_blocks(x_TC: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Activations as nvfp4 holds them, an fp8 scale for 16 numbers of a token times a fixed one, in their own type.

    Source: vLLM 0.32.0, model_executor/layers/quantization/utils/nvfp4_emulation_utils.py.
    """
    blocks = x_TC.float().unflatten(-1, (-1, NVFP4_BLOCK))  # type: ignore[no-untyped-call]
    largest = blocks.abs().amax(dim=-1, keepdim=True)
    scales = (largest / (E2M1[-1] * scale)).clamp(max=E4M3_MAX).to(torch.float8_e4m3fn).float() * scale
    magnitudes = torch.tensor(E2M1, device=x_TC.device)
    middles = (magnitudes[1:] + magnitudes[:-1]) / 2
    sizes = torch.where(scales > 0, blocks.abs() / scales, 0)
    # A tie goes to the even code: down from the middles above 0, 1, 2 and 4, up from the others.
    down, up = torch.bucketize(sizes, middles), torch.bucketize(sizes, middles, right=True)
    nearest = magnitudes[torch.where(down % 2 == 0, down, up)]
    rounded: torch.Tensor = (nearest * scales * blocks.sign()).flatten(-2).to(x_TC.dtype)
    return rounded


def _round_input(written: Checkpoint, module: str, read: Callable[[str], torch.Tensor]) -> PreHook | None:
    if written.weights_format == "w8a8":
        return lambda _, args: (round_tokens(args[0]), *args[1:])
    if written.weights_format == "nvfp4":
        scale = read(f"{module}.input_scale")
        return lambda _, args: (round_blocks(args[0], scale.to(args[0].device)), *args[1:])
    return None
