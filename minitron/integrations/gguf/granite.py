"""granitemoehybrid and bamba in GGUF files, one architecture of llama.cpp: Mamba-2 or attention, then MLP or experts.

llama.cpp takes a layer without key-value heads for Mamba-2, and turns neighboring rows of a head.

Source of keys and orders: ggml-org/llama.cpp, src/models/granite-hybrid.cpp and conversion/granite.py, and gguf 0.19,
gguf/constants.py.
"""

from collections.abc import Mapping

from minitron.artifacts.json_files import JsonValue
from minitron.errors import MinitronError
from minitron.integrations.gguf import mixers
from minitron.integrations.gguf.family import Config, GgufFamily, Rule, Value, read_number
from minitron.integrations.gguf.rope import read_partial_factor, rope_keys
from minitron.models.families import FAMILIES
from minitron.models.shape import HybridShape

# Mamba's channels over hidden ones; llama.cpp ends at any other.
EXPANSION = 2
# What transformers 5.23 takes where the configuration leaves them out.
CONTEXTS = {"granitemoehybrid": 2048, "bamba": 262144}
EPSILONS = {"granitemoehybrid": 1e-6, "bamba": 1e-5}
# Of a head of bamba, the share of channels that positions turn.
BAMBA_PARTIAL = 0.5
SCALES = {
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attention.scale": "attention_multiplier",
    "logit_scale": "logits_scaling",
}


def architecture(shape: HybridShape) -> str:
    """llama.cpp's name.

    Raises:
        MinitronError: The model lacks Mamba-2 or attention, or its Mamba mixers are not twice as wide as it is.
    """
    if not (shape.count("H") and shape.count("T")):
        raise MinitronError(
            "a model must have Mamba-2 layers and attention layers for llama.cpp, the pattern "
            f"{shape.hybrid_override_pattern} lacks one of them"
        )
    inner = shape.mamba_num_heads * shape.mamba_head_dim
    if inner != EXPANSION * shape.hidden_size:
        raise MinitronError(
            f"Mamba heads times channels must be {EXPANSION} times hidden_size={shape.hidden_size} for llama.cpp, got "
            f"{inner}; prune both together"
        )
    return "granitehybrid"


def keys(shape: HybridShape, config: Config) -> dict[str, Value]:
    """The metadata that llama.cpp needs."""
    name, experts = shape.model_type, shape.n_routed_experts
    widths = {"granitemoehybrid": shape.moe_shared_expert_intermediate_size, "bamba": shape.intermediate_size}
    found: dict[str, Value] = {
        "block_count": shape.num_hidden_layers,
        "context_length": int(read_number(config, "max_position_embeddings", CONTEXTS[name])),
        "embedding_length": shape.hidden_size,
        "vocab_size": shape.vocab_size,
        "feed_forward_length": shape.moe_intermediate_size if experts else widths[name],
        "attention.head_count": shape.num_attention_heads,
        "attention.head_count_kv": [
            shape.num_key_value_heads if kind == "T" else 0 for kind in shape.hybrid_override_pattern
        ],
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": float(read_number(config, "rms_norm_eps", EPSILONS[name])),
        "rope.dimension_count": rotated(shape, config),
        # What llama.cpp knows of whether there are positions at all.
        "rope.scaling.finetuned": has_positions(shape, config),
        **(rope_keys(config, partial=True) if has_positions(shape, config) else {}),
        **mixers.mamba2_keys(shape),
    }
    if name == "granitemoehybrid":
        found |= {key: float(read_number(config, ours, 1.0)) for key, ours in SCALES.items()}
    if experts:
        found |= {
            "expert_count": experts,
            "expert_used_count": shape.num_experts_per_tok,
            "expert_shared_feed_forward_length": shape.moe_shared_expert_intermediate_size,
        }
    return found


def has_positions(shape: HybridShape, config: Config) -> bool:
    """Whether attention has rotary positions."""
    return shape.model_type == "bamba" or config.get("position_embedding_type") == "rope"


def rotated(shape: HybridShape, config: Config) -> int:
    """How many of a head's channels are turned."""
    if shape.model_type == "bamba":  # transformers heeds no key of its own for it, only rope_parameters
        config = {**config, "partial_rotary_factor": None}
        return int(shape.head_dim * read_partial_factor(config, BAMBA_PARTIAL))
    return int(shape.head_dim * read_partial_factor(config, 1.0))


LAYER = {
    "input_layernorm.weight": Rule(name="attn_norm.weight"),
    **mixers.mamba2("mamba"),
    **mixers.attention("self_attn", paired=True),
}
SHARED, MOE = "shared_mlp", "block_sparse_moe"
ONLY_VALUES: Mapping[str, tuple[JsonValue, ...]] = {
    "hidden_act": ("silu",),
    "time_step_limit": mixers.UNLIMITED_STEPS,
}
GRANITEMOEHYBRID = GgufFamily(
    architecture=architecture,
    keys=keys,
    rules={
        **mixers.outside_blocks(FAMILIES["granitemoehybrid"]),
        **LAYER,
        "post_attention_layernorm.weight": Rule(name="ffn_norm.weight"),
        f"{SHARED}.input_linear.weight": Rule(name="ffn_gate_shexp.weight", second="ffn_up_shexp.weight"),
        f"{SHARED}.output_linear.weight": Rule(name="ffn_down_shexp.weight"),
        f"{MOE}.router.layer.weight": Rule(name="ffn_gate_inp.weight", fp32=True),
        f"{MOE}.input_linear.weight": Rule(name="ffn_gate_exps.weight", second="ffn_up_exps.weight"),
        f"{MOE}.output_linear.weight": Rule(name="ffn_down_exps.weight"),
    },
    rules_without_experts={
        f"{SHARED}.input_linear.weight": Rule(name="ffn_gate.weight", second="ffn_up.weight"),
        f"{SHARED}.output_linear.weight": Rule(name="ffn_down.weight"),
    },
    only_values=ONLY_VALUES,
    rotated=rotated,
)
BAMBA = GgufFamily(
    architecture=architecture,
    keys=keys,
    rules={
        **mixers.outside_blocks(FAMILIES["bamba"]),
        **LAYER,
        "pre_ff_layernorm.weight": Rule(name="ffn_norm.weight"),
        **mixers.gated_feed_forward("feed_forward"),
    },
    only_values=ONLY_VALUES,
    rotated=rotated,
)
