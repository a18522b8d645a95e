"""Dense transformers in GGUF files: llama, mistral, qwen2, qwen3 and smollm3.

llama.cpp rotates neighboring rows of a head in its architectures llama and smollm3, and the two halves of a head, as
transformers does, in qwen2 and qwen3.

Source of keys and orders: ggml-org/llama.cpp, src/llama-model.cpp and src/models/, and gguf 0.19, gguf/constants.py.
"""

from dataclasses import replace

from minitron.errors import MinitronError
from minitron.integrations.gguf import mixers
from minitron.integrations.gguf.family import Config, GgufFamily, Rule, Value, read_number
from minitron.integrations.gguf.rope import DEFAULT_THETA, llama3_factors, rope_keys
from minitron.models.families import FAMILIES
from minitron.models.shape import HybridShape

# What transformers 5.23 takes where the configuration leaves them out.
CONTEXTS = {"llama": 2048, "mistral": 131072}
CONTEXT = 32768
THETAS = {"smollm3": 2000000.0}
# Architectures that have a table of divisors of the rotary frequencies.
WITH_TABLES = ("llama", "mistral")
# In SmolLM3 each so-many-th layer has no positions, which is no key of a file.
NO_POSITIONS_EVERY = 4


def architecture(shape: HybridShape) -> str:
    """llama.cpp's name: the family's, and deci's for a llama whose FFN widths differ by block.

    deci is llama with sizes of its own in every block; llama takes the first block's width for all.
    """
    return "deci" if shape.block_widths else shape.model_type


def without_a_window(shape: HybridShape) -> str:
    """llama.cpp's name of a mistral.

    Raises:
        MinitronError: Its layers attend in a window, of which this architecture of llama.cpp knows nothing.
    """
    if shape.count("S"):
        raise MinitronError(
            f"sliding_window in config.json must be null for llama.cpp, got {shape.sliding_window}: there a mistral "
            "attends to everything, which is the same up to that many tokens"
        )
    return "llama"


def heads_by_hidden(shape: HybridShape) -> str:
    """llama.cpp's name of a qwen2.

    Raises:
        MinitronError: Its heads do not make up the hidden size, as llama.cpp takes them to do.
    """
    inner = shape.num_attention_heads * shape.head_dim
    if inner != shape.hidden_size:
        raise MinitronError(
            f"num_attention_heads times head_dim must be hidden_size={shape.hidden_size} for a qwen2 in llama.cpp, got "
            f"{inner}; let heads fall with the hidden size"
        )
    return shape.model_type


def without_positions_in_places(shape: HybridShape) -> str:
    """llama.cpp's name of a smollm3.

    Raises:
        MinitronError: Layers without positions are not each fourth one, as llama.cpp takes them to be.
    """
    places = range(NO_POSITIONS_EVERY - 1, shape.num_hidden_layers, NO_POSITIONS_EVERY)
    if shape.layers_of("N") != list(places):
        raise MinitronError(
            f"layers without positions must be each {NO_POSITIONS_EVERY}th of a smollm3 for llama.cpp, got "
            f"{shape.hybrid_override_pattern}; keep layers in whole intervals"
        )
    return shape.model_type


def keys(shape: HybridShape, config: Config) -> dict[str, Value]:
    """The metadata that llama.cpp needs."""
    context = read_number(config, "max_position_embeddings", CONTEXTS.get(shape.model_type, CONTEXT))
    return {
        "block_count": shape.num_hidden_layers,
        "context_length": int(context),
        "embedding_length": shape.hidden_size,
        "vocab_size": shape.vocab_size,
        "feed_forward_length": list(shape.block_widths) or shape.intermediate_size,
        "attention.head_count": by_block(shape, shape.num_attention_heads),
        "attention.head_count_kv": by_block(shape, shape.num_key_value_heads),
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": float(read_number(config, "rms_norm_eps", 1e-6)),
        "rope.dimension_count": shape.head_dim,
        **rope_keys(
            config,
            tables=shape.model_type in WITH_TABLES,
            theta=THETAS.get(shape.model_type, DEFAULT_THETA),
        ),
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
PAIRED = {**RULES, **mixers.attention("self_attn", paired=True)}
QWEN3 = GgufFamily(architecture=architecture, keys=keys, rules=RULES, only_values={"hidden_act": ("silu",)})
LLAMA = replace(QWEN3, rules=PAIRED, rope_factors=llama3_factors)
MISTRAL = replace(LLAMA, architecture=without_a_window)
QWEN2 = replace(QWEN3, architecture=heads_by_hidden, rules={**RULES, **mixers.attention("self_attn", biases=True)})
SMOLLM3 = replace(QWEN3, architecture=without_positions_in_places, rules=PAIRED)
