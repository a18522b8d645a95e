"""Configurations of published models, written down from their `config.json` on the Hugging Face Hub.

Only what sizes and blocks follow from is here. Parameters are those of the model cards' safetensors metadata or papers
where they are surely known; else of the number that is written beside the arithmetic in the tests.
"""

from typing import Any

# mistralai/Mistral-7B-v0.1; 7.24B parameters: 7,241,732,096 in its safetensors metadata.
MISTRAL_7B = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
}
# Qwen/Qwen2.5-7B; 7,615,616,512 in its safetensors metadata.
QWEN2_5_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "num_hidden_layers": 28,
    "sliding_window": 131072,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
}
# HuggingFaceTB/SmolLM3-3B; 3,075,098,624 in its safetensors metadata.
SMOLLM3_3B = {
    "model_type": "smollm3",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "num_hidden_layers": 36,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "vocab_size": 128256,
    "max_position_embeddings": 65536,
}
# google/gemma-3-1b-pt; 999,885,952 in its safetensors metadata.
GEMMA3_1B = {
    "model_type": "gemma3_text",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "num_hidden_layers": 26,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
    "max_position_embeddings": 32768,
}
# Qwen/Qwen3-30B-A3B; 30,532,122,624 in its safetensors metadata, "30.5B, 3.3B activated" on its card.
QWEN3_30B_A3B = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "mlp_only_layers": [],
    "decoder_sparse_step": 1,
    "tie_word_embeddings": False,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}
# ibm-granite/granite-4.0-h-small; "32B, 9B activated" on its card.
GRANITE_4_H_SMALL = {
    "model_type": "granitemoehybrid",
    "hidden_size": 4096,
    "intermediate_size": 768,
    "shared_intermediate_size": 1536,
    "num_local_experts": 72,
    "num_experts_per_tok": 10,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "mamba_n_heads": 128,
    "mamba_d_head": 64,
    "mamba_n_groups": 1,
    "mamba_d_state": 128,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "num_hidden_layers": 40,
    "layer_types": ["attention" if layer in (5, 15, 25, 35) else "mamba" for layer in range(40)],
    "tie_word_embeddings": True,
    "vocab_size": 100352,
    "max_position_embeddings": 131072,
}
# ibm-ai-platform/Bamba-9B-v1; "9.78B" on its card.
BAMBA_9B = {
    "model_type": "bamba",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "mamba_n_heads": 128,
    "mamba_d_head": 64,
    "mamba_n_groups": 1,
    "mamba_d_state": 128,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "num_hidden_layers": 32,
    "attn_layer_indices": [9, 18, 27],
    "tie_word_embeddings": False,
    "vocab_size": 128256,
    "max_position_embeddings": 262144,
}
# The sizes that transformers' configuration class takes by default for a model of this family, of 32 layers.
QWEN3_5_LIKE = {
    "model_type": "qwen3_5_text",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "num_hidden_layers": 32,
    "full_attention_interval": 4,
    "tie_word_embeddings": False,
    "vocab_size": 248320,
    "max_position_embeddings": 262144,
}
QWEN3_5_MOE_LIKE = {
    **{key: value for key, value in QWEN3_5_LIKE.items() if key not in ("intermediate_size", "num_key_value_heads")},
    "model_type": "qwen3_5_moe_text",
    "hidden_size": 2048,
    "num_key_value_heads": 2,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_hidden_layers": 40,
}
CONFIGS: tuple[dict[str, Any], ...] = (
    MISTRAL_7B,
    QWEN2_5_7B,
    SMOLLM3_3B,
    GEMMA3_1B,
    QWEN3_30B_A3B,
    GRANITE_4_H_SMALL,
    BAMBA_9B,
    QWEN3_5_LIKE,
    QWEN3_5_MOE_LIKE,
)
