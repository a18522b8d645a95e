"""nemotron_h in GGUF files: dense models (nemotron_h) and those of experts (nemotron_h_moe).

A block's kind is not written: llama.cpp takes one without key-value heads and without a feed-forward length for
Mamba-2, one without a feed-forward length for attention, and any other for an MLP, or for experts where the model has
any.

Source of keys and shapes: ggml-org/llama.cpp, src/models/nemotron-h.cpp, and gguf 0.19, gguf/constants.py.
"""

from minitron.errors import MinitronError
from minitron.integrations.gguf import mixers
from minitron.integrations.gguf.family import Config, GgufFamily, Rule, Value, read_number
from minitron.models.families import FAMILIES
from minitron.models.shape import HybridShape


def architecture(shape: HybridShape) -> str:
    """llama.cpp's name: a model has MLPs or experts.

    Raises:
        MinitronError: It has both, or lacks Mamba-2 or attention, without which llama.cpp ends as it starts.
    """
    if not (shape.count("M") and shape.count("*")):
        raise MinitronError(
            "a model must have Mamba-2 blocks and attention blocks for llama.cpp, the pattern "
            f"{shape.hybrid_override_pattern} lacks one of them"
        )
    if shape.count("E") and shape.count("-"):
        raise MinitronError(
            "a model must have either MLP blocks or blocks of experts for llama.cpp, the pattern "
            f"{shape.hybrid_override_pattern} has both; use an engine that reads checkpoint folders"
        )
    return "nemotron_h_moe" if shape.count("E") else "nemotron_h"


def keys(shape: HybridShape, config: Config) -> dict[str, Value]:
    """The metadata that llama.cpp needs."""
    pattern = shape.hybrid_override_pattern
    experts = shape.moe_intermediate_size
    widths = [
        shape.sizes_at(layer)["intermediate_size"] if kind == "-" else experts * (kind == "E")
        for layer, kind in enumerate(pattern)
    ]
    epsilon = float(read_number(config, "layer_norm_epsilon", 1e-5))
    found: dict[str, Value] = {
        "block_count": shape.num_hidden_layers,
        "context_length": int(read_number(config, "max_position_embeddings", 4096)),
        "embedding_length": shape.hidden_size,
        "vocab_size": shape.vocab_size,
        "feed_forward_length": widths,
        "attention.head_count": shape.num_attention_heads,
        "attention.head_count_kv": [shape.num_key_value_heads if kind == "*" else 0 for kind in pattern],
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        # Readers take the one or the other.
        "attention.layer_norm_epsilon": epsilon,
        "attention.layer_norm_rms_epsilon": epsilon,
        "rope.dimension_count": shape.head_dim,
        "rope.scaling.finetuned": False,
        **mixers.mamba2_keys(shape),
    }
    return found | (_expert_keys(shape, config) if shape.count("E") else {})


def _expert_keys(shape: HybridShape, config: Config) -> dict[str, Value]:
    found: dict[str, Value] = {
        "expert_count": shape.n_routed_experts,
        "expert_used_count": shape.num_experts_per_tok,
        "expert_feed_forward_length": shape.moe_intermediate_size,
        "expert_shared_feed_forward_length": shape.moe_shared_expert_intermediate_size,
        "expert_shared_count": 1,
        "expert_weights_norm": config.get("norm_topk_prob") is not False,
        "expert_weights_scale": float(read_number(config, "routed_scaling_factor", 1.0)),
    }
    if shape.topk_group < shape.n_group:  # llama.cpp takes no groups of which all are used
        found |= {"expert_group_count": shape.n_group, "expert_group_used_count": shape.topk_group}
    if shape.moe_latent_size:
        found["moe_latent_size"] = shape.moe_latent_size
    return found


RULES = {
    **mixers.outside_blocks(FAMILIES["nemotron_h"]),
    "norm.weight": Rule(name="attn_norm.weight"),
    **mixers.mamba2("mixer"),
    **mixers.feed_forward("mixer"),
    **mixers.attention("mixer"),
    "mixer.gate.weight": Rule(name="ffn_gate_inp.weight", fp32=True),
    "mixer.gate.e_score_correction_bias": Rule(name="exp_probs_b.bias"),
    **mixers.feed_forward("mixer.experts.{}", "_exps"),
    **mixers.feed_forward("mixer.shared_experts", "_shexp"),
    "mixer.fc1_latent_proj.weight": Rule(name="ffn_latent_down.weight"),
    "mixer.fc2_latent_proj.weight": Rule(name="ffn_latent_up.weight"),
}
NEMOTRON_H = GgufFamily(
    architecture=architecture,
    keys=keys,
    rules=RULES,
    only_values={
        "mlp_hidden_act": ("relu2",),
        "mamba_hidden_act": ("silu",),
        "time_step_limit": mixers.UNLIMITED_STEPS,
    },
)
