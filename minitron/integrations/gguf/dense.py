"""llama and qwen3 in GGUF files.

llama.cpp rotates neighboring rows of a head in its architecture llama and the two halves of a head, as transformers
does, in qwen3.

Source of keys and orders: ggml-org/llama.cpp, src/llama-model.cpp, and gguf 0.19, gguf/constants.py.
"""

from dataclasses import replace

from minitron.integrations.gguf import mixers
from minitron.integrations.gguf.family import Config, GgufFamily, Rule, Value, read_number
from minitron.integrations.gguf.rope import llama3_factors, rope_keys
from minitron.models.families import FAMILIES
from minitron.models.shape import HybridShape

# What transformers 5.23 takes for max_position_embeddings where it is left out.
CONTEXTS = {"llama": 2048, "qwen3": 32768}


def architecture(shape: HybridShape) -> str:
    """llama.cpp's name: the family's, and deci's for a llama whose FFN widths differ by block.

    deci is llama with sizes of its own in every block; llama takes the first block's width for all.
    """
    return "deci" if shape.block_widths else shape.model_type


def keys(shape: HybridShape, config: Config) -> dict[str, Value]:
    """The metadata that llama.cpp needs."""
    return {
        "block_count": shape.num_hidden_layers,
        "context_length": int(read_number(config, "max_position_embeddings", CONTEXTS[shape.model_type])),
        "embedding_length": shape.hidden_size,
        "vocab_size": shape.vocab_size,
        "feed_forward_length": list(shape.block_widths) or shape.intermediate_size,
        "attention.head_count": by_block(shape, shape.num_attention_heads),
        "attention.head_count_kv": by_block(shape, shape.num_key_value_heads),
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": float(read_number(config, "rms_norm_eps", 1e-6)),
        "rope.dimension_count": shape.head_dim,
        **rope_keys(config, tables=shape.model_type == "llama"),
    }


def by_block(shape: HybridShape, size: int) -> Value:
    """A size as deci has it, for every block, where FFN widths differ by block; else the size."""
    return [size] * shape.num_hidden_layers if shape.block_widths else size


RULES = {
    **mixers.outside_blocks(FAMILIES["qwen3"]),
    "input_layernorm.weight": Rule(name="attn_norm.weight"),
    **mixers.attention("self_attn"),
    "self_attn.q_norm.weight": Rule(name="attn_q_norm.weight"),
    "self_attn.k_norm.weight": Rule(name="attn_k_norm.weight"),
    "post_attention_layernorm.weight": Rule(name="ffn_norm.weight"),
    **mixers.gated_feed_forward("mlp"),
}
QWEN3 = GgufFamily(architecture=architecture, keys=keys, rules=RULES, only_values={"hidden_act": ("silu",)})
LLAMA = replace(
    QWEN3,
    rules={
        **RULES,
        "self_attn.q_proj.weight": Rule(name="attn_q.weight", values="paired"),
        "self_attn.k_proj.weight": Rule(name="attn_k.weight", values="paired"),
    },
    rope_factors=llama3_factors,
)
