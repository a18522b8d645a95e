"""Tiny models whose dims are all distinct and whose SSM matters: as shapes, models and checkpoint folders."""

import copy
import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, NemotronHConfig, PreTrainedModel, PreTrainedTokenizerFast

from minitron.checkpoints.names import read_place
from minitron.checkpoints.places import model_places
from minitron.checkpoints.weights import write_state
from minitron.models.config import config_for_shape
from minitron.models.shape import HybridShape
from minitron.prune.laws.tiny_model import randomize
from minitron.runtime.building import new_model


def make_tiny_shape(**changes: int | str) -> HybridShape:
    """Every dim differs from every other and is above 1, so that a swapped axis cannot pass."""
    dims: dict[str, int | str] = {
        "hybrid_override_pattern": "M-*MM-*-",
        "vocab_size": 271,
        "hidden_size": 22,
        "intermediate_size": 36,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 10,
        "mamba_num_heads": 8,
        "mamba_head_dim": 5,
        "n_groups": 2,
        "ssm_state_size": 7,
        "conv_kernel": 4,
    }
    return HybridShape(**(dims | changes))  # type: ignore[arg-type]


def make_moe_shape(**changes: int | str) -> HybridShape:
    """A hybrid with blocks of experts; `moe_latent_size=9` lets them read latent channels."""
    experts: dict[str, int | str] = {
        "hybrid_override_pattern": "ME*-EM",
        "n_routed_experts": 15,
        "num_experts_per_tok": 4,
        "n_group": 3,
        "topk_group": 2,
        "moe_intermediate_size": 11,
        "moe_shared_expert_intermediate_size": 13,
    }
    return make_tiny_shape(**(experts | changes))


def make_dense_shape(model_type: str, **changes: int | str) -> HybridShape:
    """A dense transformer of three layers."""
    dims: dict[str, int | str] = {
        "hybrid_override_pattern": "TTT",
        "vocab_size": 271,
        "hidden_size": 24,
        "intermediate_size": 37,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 10,
        "model_type": model_type,
    }
    return HybridShape(**(dims | changes))  # type: ignore[arg-type]


# What the configurations of some families say beside sizes and blocks: nothing is at a neutral value.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "gemma3_text": {
        "query_pre_attn_scalar": 5,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 70.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
        },
    },
    "granitemoehybrid": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "attention_multiplier": 0.5,
        "logits_scaling": 1.7,
        "position_embedding_type": "rope",
        "mamba_chunk_size": 8,
    },
    "bamba": {"mamba_chunk_size": 8},
    "qwen3_moe": {"norm_topk_prob": True},
}
SPECIAL_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def make_config(shape: HybridShape, **settings: Any) -> Any:
    """transformers' configuration of a shape, its blocks listed as published configurations of its family list them."""
    pattern = shape.hybrid_override_pattern
    if shape.model_type == "nemotron_h":
        blocks: dict[str, Any] = {"hybrid_override_pattern": pattern, "chunk_size": 8}
        return NemotronHConfig(**shape.config_sizes, **blocks, **SPECIAL_TOKENS, **settings)
    known = SETTINGS.get(shape.model_type, {})
    # A switch that is off is no size of the shape, and some families take it to be on where nothing is said.
    switches = {key: bool(shape.sizes[key]) for key in shape.family.switches}
    blocks = {"num_hidden_layers": len(pattern), **switches, **block_lists(shape)}
    derived = {key: size(shape.sizes) for key, size in shape.family.derived.items()}
    if not shape.n_routed_experts:  # nor are experts that are not there
        derived |= dict.fromkeys(shape.family.config_keys.get("n_routed_experts", ()), 0)
    return AutoConfig.for_model(
        shape.model_type, **{**shape.config_sizes, **known, **blocks, **derived, **SPECIAL_TOKENS, **settings}
    )


def config_json(config: Any) -> dict[str, Any]:
    """What transformers writes of a configuration, every default included."""
    written: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return written


def block_lists(shape: HybridShape) -> dict[str, Any]:
    """What the configuration says of every block."""
    pattern = shape.hybrid_override_pattern
    names = {"S": "sliding_attention", "T": "full_attention", "H": "linear_attention", "G": "linear_attention"}
    match shape.model_type:
        case "mistral":
            return {"sliding_window": shape.sliding_window if "S" in pattern else None}
        case "smollm3":
            return {"no_rope_layers": [int(letter == "T") for letter in pattern]}
        case "bamba":
            return {"attn_layer_indices": [layer for layer, letter in enumerate(pattern) if letter == "T"]}
        case "qwen3_moe":
            return {"mlp_only_layers": [layer for layer, letter in enumerate(pattern) if letter == "T"]}
        case "gemma3_text" | "granitemoehybrid" | "qwen3_5_text" | "qwen3_5_moe_text":
            return {"layer_types": [names[letter] for letter in pattern]}
    return {}


def make_tiny_model(shape: HybridShape, *, seed: int = 0) -> PreTrainedModel:
    """A model of a shape with weights strong enough that its SSM moves the logits by tens of percent."""
    return copy.deepcopy(_tiny_model(shape, seed))


@functools.lru_cache(maxsize=32)
def _tiny_model(shape: HybridShape, seed: int) -> PreTrainedModel:
    model = new_model(make_config(shape), seed=seed)
    randomize(model, seed=seed)
    return model


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, after <pad>, <s> and </s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def write_tiny_checkpoint(
    folder: Path,
    *,
    shape: HybridShape | None = None,
    shard_bytes: int = 2**32,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A whole checkpoint folder of a model, the tiny hybrid's unless told otherwise, tokenizer included."""
    folder.mkdir(parents=True)
    for name, content in _tiny_files(shape or make_tiny_shape(), shard_bytes, dtype).items():
        (folder / name).write_bytes(content)
    return folder


@functools.lru_cache(maxsize=32)
def _tiny_files(shape: HybridShape, shard_bytes: int, dtype: torch.dtype) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), shape, shard_bytes, dtype)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _write(folder: Path, shape: HybridShape, shard_bytes: int, dtype: torch.dtype) -> None:
    model = make_tiny_model(shape)
    state = model.state_dict()
    tensors = {name: read_place(state, place).to(dtype) for name, place in model_places(shape).items()}
    write_state(folder, tensors, shard_bytes=shard_bytes)
    model.config.architectures = [type(model).__name__]
    config = config_for_shape(config_json(model.config), shape)
    (folder / "config.json").write_text(json.dumps(config))
    make_tokenizer().save_pretrained(folder)
