"""Random shapes of every family that vLLM serves, as its planner is asked about them; no two dims are equal."""

import random
from typing import Any

from minitron.models.config import config_for_shape
from minitron.models.shape import HybridShape

ARCHITECTURES: dict[str, str] = {
    "nemotron_h": "NemotronHForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
}
# Letters of the blocks of a family, and those that are there in any case. A mistral has no list of its blocks.
LETTERS = {
    "gemma3_text": ("SSST", "S"),
    "smollm3": ("TN", "T"),
    "granitemoehybrid": ("HHT", "H"),
    "qwen3_moe": ("TX", "X"),
}
LETTERS |= dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text"), ("GGT", "GT"))
EXPERTS = {"n_routed_experts": 6, "num_experts_per_tok": 2}


def draw_shape(rng: random.Random) -> HybridShape:
    """A shape of any family; of nemotron_h also one with attention or Mamba alone."""
    model_type = rng.choice(["nemotron_h"] * 5 + list(ARCHITECTURES))
    heads, per_kv = rng.sample(range(2, 9), 2)
    dims = {"num_key_value_heads": heads, "num_attention_heads": heads * per_kv, "vocab_size": 271}
    dims["head_dim"] = rng.choice([32, 64, 80, 96, 112, 128, 160, 192])
    dims["hidden_size"] = heads * per_kv * rng.randint(9, 13)  # llama's must be a multiple of its heads
    dims["intermediate_size"] = rng.randint(801, 999)
    if model_type == "nemotron_h":
        kind = rng.choice(["hybrid", "hybrid", "hybrid", "attention", "mamba"])
        letters = {"hybrid": "MMM**-", "attention": "*-", "mamba": "M-"}[kind]
        pattern = draw_pattern(rng, letters, {"hybrid": "M*", "attention": "*", "mamba": "M"}[kind])
        dims |= draw_mamba(rng)
    else:
        pattern = draw_pattern(rng, *LETTERS.get(model_type, ("T", "T")))
        dims |= draw_rest(rng, model_type, dims)
        if model_type == "mistral":
            pattern = ("S" if dims["sliding_window"] else "T") * len(pattern)
    told_apart = [size for name, size in dims.items() if size and name not in ("linear_conv_kernel_dim", *EXPERTS)]
    if len(set(told_apart)) < len(told_apart):
        return draw_shape(rng)
    return HybridShape(hybrid_override_pattern=pattern, model_type=model_type, **dims)


def draw_pattern(rng: random.Random, letters: str, needed: str) -> str:
    """Blocks in any order; of one letter fewer, since they are one group."""
    pattern = [*needed, *rng.choices(letters, k=rng.randint(1, 30 if len(set(letters)) > 1 else 8))]
    rng.shuffle(pattern)
    return "".join(pattern)


def draw_mamba(rng: random.Random) -> dict[str, int]:
    """Sizes of Mamba-2."""
    groups = rng.choice([2, 3, 5])
    return {
        "n_groups": groups,
        "mamba_num_heads": groups * rng.randint(2, 30),
        "mamba_head_dim": rng.choice([17, 24, 33, 65, 130]),
        "ssm_state_size": rng.choice([16, 40, 72, 129]),
        "conv_kernel": rng.choice([3, 4, 5]),
    }


def draw_rest(rng: random.Random, model_type: str, dims: dict[str, int]) -> dict[str, int]:
    """Sizes that a family has beside those of a dense transformer."""
    if model_type in ("mistral", "gemma3_text"):
        is_full = model_type == "mistral" and rng.random() < 0.3
        return {"sliding_window": 0 if is_full else int(2 ** rng.uniform(4, 14))}
    if model_type == "qwen2":  # vLLM reads no head_dim
        return {"hidden_size": dims["num_attention_heads"] * dims["head_dim"]}
    if model_type == "granitemoehybrid":
        heads, head_dim = dims["num_attention_heads"], dims["head_dim"]
        twice = {"mamba_num_heads": 4 * heads, "mamba_head_dim": head_dim // 2, "n_groups": rng.choice([2, 4])}
        shared = {"moe_shared_expert_intermediate_size": rng.randint(801, 999), "intermediate_size": 0}
        return draw_mamba(rng) | twice | shared | {"hidden_size": heads * head_dim}  # vLLM reads no head_dim
    if model_type == "qwen3_moe":
        return EXPERTS | {"moe_intermediate_size": rng.randint(301, 399)}
    if model_type.startswith("qwen3_5"):
        keys = rng.choice([3, 4, 5])
        delta = {
            "linear_num_key_heads": keys,
            "linear_num_value_heads": keys * rng.choice([2, 3, 7]),
            "linear_key_head_dim": rng.choice([48, 66, 144]),
            "linear_value_head_dim": rng.choice([36, 72, 132]),
            "linear_conv_kernel_dim": rng.choice([3, 4, 5]),
        }
        experts = EXPERTS | {"moe_intermediate_size": rng.randint(301, 399), "moe_shared_expert_intermediate_size": 203}
        return delta | (experts | {"intermediate_size": 0} if "moe" in model_type else {})
    return {}


def config_of(shape: HybridShape) -> dict[str, Any]:
    """The `config.json` of a shape."""
    source: dict[str, Any] = {"model_type": shape.model_type, "architectures": [ARCHITECTURES[shape.model_type]]}
    if shape.model_type == "granitemoehybrid":
        source["num_local_experts"] = 0  # where there is none, transformers assumes experts
    if shape.model_type == "smollm3":
        source["pad_token_id"] = 0
    if shape.model_type == "mistral":
        source["sliding_window"] = shape.sliding_window if "S" in shape.hybrid_override_pattern else None
    return dict(config_for_shape(source, shape))
