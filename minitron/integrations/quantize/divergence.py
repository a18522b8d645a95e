"""What quantization costs: KL to the unquantized model, computed with the weights as they are stored."""

# T tokens, C columns

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.names import gather_state, model_places, read_place
from minitron.data.sequences import TokenSequences, blend_sources
from minitron.data.sources import TextSource
from minitron.errors import MinitronError
from minitron.evaluate.perplexity import evaluate_text
from minitron.integrations.quantize.dequantize import meant_tensors
from minitron.integrations.quantize.folder import export_dtype
from minitron.integrations.quantize.settings import QuantizeSettings
from minitron.models.config import config_for_shape
from minitron.runtime.dtypes import torch_dtype
from minitron.runtime.loading import assemble_model, config_of, load_model, load_tokenizer


def text_sequences(source: Checkpoint, settings: QuantizeSettings) -> TokenSequences:
    """The settings' text as packed sequences of the checkpoint's tokens.

    Raises:
        MinitronError: The text cannot be read, or the tokenizer is of another model.
    """
    assert settings.data is not None
    sequences_NT = blend_sources(
        [TextSource(path=settings.data)],
        load_tokenizer(source.folder),
        seq_len=settings.seq_len,
        num_sequences=settings.samples,
        seed=settings.seed,
    )
    if int(sequences_NT.max()) >= source.shape.vocab_size:
        raise MinitronError(
            f"token ids must be below the model's vocab_size {source.shape.vocab_size}, the tokenizer gives "
            f"{int(sequences_NT.max())}"
        )
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
    with rounded_activations(meant, written):
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
    with ExitStack() as stack:
        if written.weights_format == "w8a8":
            places = model_places(written.shape)
            whole = [places[name] for name in written.tensors if written.is_quantized(name)]
            for place in whole:
                if place.entry is None:
                    module = model.get_submodule(place.name.removesuffix(".weight"))
                    stack.callback(module.register_forward_pre_hook(_round_input).remove)
        yield


def round_tokens(x_TC: torch.Tensor) -> torch.Tensor:
    """Activations as int8 with a scale a token holds them, in the type they come in.

    Source: vLLM 0.32.0, csrc/cpu/dnnl_kernels.cpp: the largest magnitude is 127; ties go to even.
    """
    scale_T1 = (x_TC.float().abs().amax(dim=-1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return ((x_TC.float() / scale_T1).round() * scale_T1).to(x_TC.dtype)


def _round_input(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (round_tokens(args[0]), *args[1:])
