"""Small teachers of the families of published configurations, in sizes that engines' kernels take, and their cuts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.checkpoints.names import read_place
from minitron.checkpoints.places import model_places
from minitron.checkpoints.weights import write_state
from minitron.importance.scores import random_scores
from minitron.importance.selection import select_units
from minitron.models.config import config_for_shape
from minitron.models.shape import HybridShape
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.laws.tiny_model import tiny_model
from minitron.prune.plan import PrunePlan
from tests.engines.published import PUBLISHED
from tests.support.gguf_files import make_mergeable_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A small teacher and what is cut off it.

    Attributes:
        pattern: Letters of its blocks.
        sizes: Its sizes.
        layers: Blocks that the student keeps.
        cut: The sizes that the student has otherwise.
        says: What its configuration says otherwise than the published one.
        embeddings: Factor on its random embeddings; a small one where the same token would follow forever.
    """

    pattern: str
    sizes: Mapping[str, int]
    layers: tuple[int, ...]
    cut: Mapping[str, int]
    says: Mapping[str, Any] = field(default_factory=dict)
    embeddings: float = 1.0


# Heads of 32 channels and experts of whole 32 channels are what vLLM's kernels for CPUs take. Some readers take the
# hidden size over the number of heads for a head's channels, so heads fall with the hidden size.
ATTENTION = {
    "vocab_size": 271,
    "hidden_size": 192,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 32,
}
DENSE = {**ATTENTION, "intermediate_size": 160}
NARROW = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
NARROW_DENSE = {**NARROW, "intermediate_size": 96}
MAMBA = {"mamba_num_heads": 12, "mamba_head_dim": 32, "n_groups": 1, "ssm_state_size": 16, "conv_kernel": 4}
NARROW_MAMBA = {**NARROW, "mamba_num_heads": 8}
EXPERTS = {"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
FEWER_EXPERTS = {"n_routed_experts": 4, "moe_intermediate_size": 32}
DELTA = {
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
}
NARROW_DELTA = {**NARROW, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
# Of a small vocabulary.
SPECIAL_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHARED = {"moe_shared_expert_intermediate_size": 96}
# The window that layers attend in, shorter than the prompts.
WINDOW = {"sliding_window": 4}
TIED = {"tie_word_embeddings": 1}

TEACHERS: Mapping[str, Teacher] = {
    "mistral": Teacher(pattern="SSSS", sizes={**DENSE, **WINDOW}, layers=(0, 2, 3), cut=NARROW_DENSE),
    "qwen2": Teacher(pattern="TTTT", sizes=DENSE, layers=(0, 2, 3), cut=NARROW_DENSE),
    "smollm3": Teacher(pattern="TTNTTN", sizes={**DENSE, **TIED}, layers=(0, 2, 3, 5), cut=NARROW_DENSE),
    "gemma3_text": Teacher(
        pattern="SSTSST",
        sizes={**DENSE, **WINDOW, **TIED},
        layers=(0, 2, 3, 5),
        cut=NARROW_DENSE,
        says={"query_pre_attn_scalar": 32},
        embeddings=0.1,
    ),
    "granitemoehybrid": Teacher(
        pattern="HTHHTH",
        sizes={**ATTENTION, **MAMBA, **EXPERTS, **SHARED, **TIED},
        layers=(0, 1, 3, 4, 5),
        cut={**NARROW_MAMBA, **FEWER_EXPERTS, "moe_shared_expert_intermediate_size": 64},
        says={"attention_multiplier": 0.2, "logits_scaling": 1.5},
        embeddings=0.1,
    ),
    "bamba": Teacher(
        pattern="HTHHTH",
        sizes={**DENSE, **MAMBA},
        layers=(0, 1, 3, 4, 5),
        cut={**NARROW_MAMBA, "intermediate_size": 96},
    ),
    "qwen3_moe": Teacher(
        pattern="XTXXTX", sizes={**DENSE, **EXPERTS}, layers=(0, 1, 3, 4, 5), cut={**NARROW_DENSE, **FEWER_EXPERTS}
    ),
    "qwen3_5_text": Teacher(
        pattern="GGTGGT",
        sizes={**DENSE, **DELTA},
        layers=(1, 3, 5),
        says={"full_attention_interval": 3},
        cut={**NARROW_DELTA, "intermediate_size": 96},
    ),
    "qwen3_5_moe_text": Teacher(
        pattern="GGTGGT",
        sizes={**ATTENTION, **DELTA, **EXPERTS, **SHARED},
        layers=(1, 3, 5),
        says={"full_attention_interval": 3},
        cut={**NARROW_DELTA, **FEWER_EXPERTS, "moe_shared_expert_intermediate_size": 64},
    ),
}


def shape_of(name: str, teacher: Teacher | None = None) -> HybridShape:
    """The shape of a teacher; of another one of its family where that is given."""
    teacher = teacher or TEACHERS[name]
    sizes: dict[str, Any] = {"tie_word_embeddings": 0, **teacher.sizes}
    return HybridShape(model_type=str(PUBLISHED[name]["model_type"]), hybrid_override_pattern=teacher.pattern, **sizes)


def write_teacher_and_student(name: str, root: Path, teacher: Teacher | None = None) -> dict[str, Path]:
    """A teacher, and a student that is cut in depth and along every axis: what it is -> the checkpoint's folder.

    Args:
        name: The family, whose teacher above is taken where no other one is given.
        root: Where the folders go.
        teacher: Another teacher of the family.
    """
    teacher = teacher or TEACHERS[name]
    config = {**PUBLISHED[name], **teacher.says}
    folder = write_teacher(root / "teacher", config, shape_of(name, teacher), embeddings=teacher.embeddings)
    source = open_checkpoint(folder)
    return {"teacher": folder, "student": _prune(source, root / "student", teacher)}


def write_teacher(folder: Path, config: Mapping[str, Any], shape: HybridShape, *, embeddings: float = 1.0) -> Path:
    """A whole checkpoint of a random model, with a tokenizer that llama.cpp takes."""
    folder.mkdir(parents=True)
    config = {**config, **SPECIAL_TOKENS}
    model = tiny_model(config, shape, seed=0).to(torch.float32)
    model.get_input_embeddings().weight.data.mul_(embeddings)
    state = model.state_dict()
    write_state(folder, {name: read_place(state, place) for name, place in model_places(shape).items()})
    (folder / "config.json").write_text(json.dumps(config_for_shape(config, shape)))
    make_mergeable_tokenizer().save_pretrained(folder)
    return folder


def _prune(source: Checkpoint, output: Path, teacher: Teacher) -> Path:
    target = source.shape.resized(layers=teacher.layers, **teacher.cut)
    keep = select_units(random_scores(source.shape, seed=0), source.shape, target, teacher.layers)
    return prune_checkpoint(source, PrunePlan(source=source.shape, target=target, keep=keep), output).folder
