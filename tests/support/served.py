"""Configurations that every reader takes, but for what their sizes and blocks say."""

from typing import Any

from minitron.models.shape import HybridShape

ARCHITECTURES = {"nemotron_h": "NemotronHForCausalLM", "llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
NOT_SIZES: dict[str, Any] = {
    "max_position_embeddings": 4096,
    "auto_map": {"AutoConfig": "configuration.Config"},
}
HYBRID: dict[str, Any] = {
    "chunk_size": 128,
    "layer_norm_epsilon": 1e-5,
    "use_conv_bias": True,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    **dict.fromkeys(("attention_bias", "mamba_proj_bias", "mlp_bias", "use_bias"), False),
}
DENSE: dict[str, Any] = {"rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False}


def served_config(shape: HybridShape) -> dict[str, Any]:
    """A configuration of a shape with every key that some reader needs, in spellings that all know."""
    config = {"model_type": shape.model_type, "architectures": [ARCHITECTURES[shape.model_type]], **NOT_SIZES}
    config["num_hidden_layers"] = shape.num_hidden_layers
    if shape.model_type != "nemotron_h":
        return config | DENSE | shape.config_sizes
    blocks = {"hybrid_override_pattern": shape.hybrid_override_pattern, "mamba_n_groups": shape.n_groups}
    return config | HYBRID | shape.config_sizes | blocks
