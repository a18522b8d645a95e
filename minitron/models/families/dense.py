"""Dense transformer families: grouped-query attention and a gated MLP in every layer (llama, qwen3).

Source of names: transformers 5.23, models/llama/modeling_llama.py and models/qwen3/modeling_qwen3.py.
"""

from dataclasses import replace

from minitron.models.axes import Axis, TensorSpec
from minitron.models.families import mixers
from minitron.models.families.family import Branch, Family, HookPoint
from minitron.models.families.mixers import HIDDEN, VOCAB

LAYER = (
    TensorSpec("input_layernorm.weight", (HIDDEN,)),
    *mixers.attention("self_attn"),
    TensorSpec("post_attention_layernorm.weight", (HIDDEN,)),
    *mixers.gated_feed_forward("mlp"),
)
QUERY_KEY_NORMS = (
    TensorSpec("self_attn.q_norm.weight", (mixers.HEAD_DIM,)),
    TensorSpec("self_attn.k_norm.weight", (mixers.HEAD_DIM,)),
)


LLAMA = Family(
    model_type="llama",
    block_kinds={"T": "full_attention"},
    only_kind="T",
    axes=mixers.by_name(
        Axis(name="hidden_size"),
        Axis(name="intermediate_size", block="T"),
        Axis(name="num_attention_heads", block="T", grouped_by="num_key_value_heads"),
    ),
    config_keys={**mixers.TRANSFORMER_KEYS, "tie_word_embeddings": ("tie_word_embeddings",)},
    switches=("tie_word_embeddings",),
    defaults={
        "num_key_value_heads": lambda sizes: sizes["num_attention_heads"],
        "head_dim": lambda sizes: sizes["hidden_size"] // sizes["num_attention_heads"],
        "tie_word_embeddings": lambda _: 0,
    },
    multiples={"hidden_size": "num_attention_heads"},  # transformers refuses others, whatever the head_dim
    embeddings="model.embed_tokens.weight",
    final_norm="model.norm.weight",
    head="lm_head.weight",
    model_tensors=(
        TensorSpec("model.embed_tokens.weight", (VOCAB, HIDDEN)),
        TensorSpec("model.norm.weight", (HIDDEN,)),
        TensorSpec("lm_head.weight", (VOCAB, HIDDEN), lacks="tie_word_embeddings"),
    ),
    block_tensors={"T": LAYER},
    block_prefix="model.layers.{layer}.",
    prefix_on_disk="model.",
    prefix_in_memory="model.",
    computed=("rotary_emb.inv_freq",),
    only_values={"attention_bias": (False,), "mlp_bias": (False,), "use_sliding_window": (False,)},
    keeps={"T": "kv"},
    hook_points={
        "hidden": {
            "T": (
                HookPoint(
                    module="input_layernorm",
                    side="output",
                    readers=mixers.attention_readers("self_attn"),
                ),
                HookPoint(
                    module="post_attention_layernorm",
                    side="output",
                    readers=("mlp.gate_proj.weight", "mlp.up_proj.weight"),
                ),
            )
        },
        "ffn": {"T": mixers.input_of("mlp.down_proj")},
        "ffn_preactivation": {"T": (HookPoint(module="mlp.gate_proj", side="output"),)},
        "attention_output": {"T": mixers.input_of("self_attn.o_proj")},
    },
    branches={
        "T": (
            Branch(projection="self_attn.o_proj", entered="post_attention_layernorm"),
            Branch(projection="mlp.down_proj"),
        )
    },
)

QWEN3 = replace(
    LLAMA,
    model_type="qwen3",
    block_tensors={"T": (*LAYER, *QUERY_KEY_NORMS)},
    multiples={},
    # transformers 5.23 reads 128 where a configuration has no head_dim.
    defaults={**LLAMA.defaults, "head_dim": lambda _: 128},
)
