"""Checkpoints that can be exported, and GGUF files read back by the package of llama.cpp's authors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from minitron.models.shape import HybridShape
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_shape, write_tiny_checkpoint

# A model of every kind that is exported. llama.cpp has no file for MLPs and experts in one model.
SHAPES = {
    "nemotron_h": make_tiny_shape(),
    "nemotron_h_moe": make_moe_shape(hybrid_override_pattern="ME*EM"),
    "nemotron_h_moe, latent": make_moe_shape(hybrid_override_pattern="ME*EM", moe_latent_size=9),
    "llama": make_dense_shape("llama"),
    "llama, tied": make_dense_shape("llama", tie_word_embeddings=1),
    "qwen3": make_dense_shape("qwen3"),
    "qwen3, tied": make_dense_shape("qwen3", tie_word_embeddings=1),
}
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the")]


def make_mergeable_tokenizer(pre_tokenizer: Any = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE with three merges, and <s> before every text; splits as GPT-2's unless told otherwise."""
    special = ["<pad>", "<s>", "</s>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(merge) for merge in MERGES)]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def write_exportable(folder: Path, shape: HybridShape, *, dtype: torch.dtype = torch.float32) -> Path:
    """A whole checkpoint folder of a tiny model, with a tokenizer that llama.cpp takes."""
    write_tiny_checkpoint(folder, shape=shape, dtype=dtype)
    make_mergeable_tokenizer().save_pretrained(folder)
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadTensor:
    """A tensor as `gguf.GGUFReader` gives it: its type, its shape (outermost first) and its bytes."""

    type: str
    shape: tuple[int, ...]
    raw: npt.NDArray[Any]

    def numbers(self) -> npt.NDArray[np.float32]:
        """In fp32; of bf16 the bytes are the upper half of it."""
        if self.type == "BF16":
            bits = self.raw.reshape(-1).view("<u2").astype("<u4") << 16
            return bits.view("<f4").reshape(self.shape)
        assert self.type in ("F32", "F16")
        return self.raw.astype(np.float32).reshape(self.shape)


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, ReadTensor]]:
    """The metadata and the tensors of a file."""
    reader = gguf.GGUFReader(path)
    tensors = {
        tensor.name: ReadTensor(
            type=tensor.tensor_type.name, shape=tuple(reversed(tensor.shape.tolist())), raw=np.array(tensor.data)
        )
        for tensor in reader.tensors
    }
    return {key: field.contents() for key, field in reader.fields.items()}, tensors


def llama_cpp_name(architecture: str, name: str, *, blocks: int) -> str:
    """Where llama.cpp's own converter puts a tensor of a checkpoint: the name map of the package gguf."""
    found = next(arch for arch, each in gguf.MODEL_ARCH_NAMES.items() if each == architecture)
    names = gguf.get_tensor_name_map(found, blocks)
    # The converter itself renames these before it asks the map.
    name = name.replace("mixer.dt_bias", "mixer.dt.bias").replace("e_score_correction_bias", "e_score_correction.bias")
    name = re.sub(r"^backbone\.(layers\.\d+)\.mixer\.experts\.\d+", r"model.\1.mlp.experts", name)
    mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert mapped is not None, name
    return mapped


def stack_experts(found: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors by name, where what is given as expert -> tensor is stacked in the experts' order."""
    return {
        name: np.stack([each[expert] for expert in range(len(each))]) if isinstance(each, dict) else each
        for name, each in found.items()
    }
