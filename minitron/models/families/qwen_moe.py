"""Qwen models with routed experts and with gated DeltaNet: qwen3_moe, qwen3_5_text and qwen3_5_moe_text.

Source of names: transformers 5.23, models/{qwen3_moe,qwen3_5,qwen3_5_moe}/ and conversion_mapping.py.
"""

from collections.abc import Mapping
from dataclasses import replace

from minitron.models.axes import Axis, TensorSpec
from minitron.models.families import mixers
from minitron.models.families.dense import GATED_MLP, LLAMA, default_head_dim, tied
from minitron.models.families.family import Branch, HookPoint
from minitron.models.families.layer_lists import BlockPattern, LayerList
from minitron.models.families.mixers import HIDDEN, ONE
from minitron.models.families.recurrent import GATED_DELTA_NET

EXPERT_READERS = ("mlp.gate.weight", "mlp.experts.gate_up_proj")


EXPERT_KEYS = {
    "n_routed_experts": ("num_experts", "num_local_experts"),
    "num_experts_per_tok": ("num_experts_per_tok",),
    "moe_intermediate_size": ("moe_intermediate_size",),
}


def _experts_where(config: Mapping[str, object], blocks: int) -> str:
    step = config.get("decoder_sparse_step", 1)
    assert isinstance(step, int)
    dense = config.get("mlp_only_layers") or []
    assert isinstance(dense, list)
    return "".join("T" if (layer + 1) % step or layer in dense else "X" for layer in range(blocks))


_DENSE_LAYERS = LayerList(key="mlp_only_layers", values={"T": (True,)}, form="indices", leaves_open=True)
_ATTENTION = mixers.attention("self_attn", head_norms=0.0)
_FIRST, _SECOND = mixers.norm("input_layernorm.weight"), mixers.norm("post_attention_layernorm.weight")
_READ_BY_ATTENTION = mixers.read_from("input_layernorm", *mixers.attention_readers("self_attn"))
_ATTENTION_BRANCH = Branch(projection="self_attn.o_proj", entered="post_attention_layernorm")

QWEN3_MOE = replace(
    LLAMA,
    model_type="qwen3_moe",
    block_kinds={"T": "attention and MLP", "X": "attention and experts"},
    pattern=BlockPattern(
        letters="TX", lists=(_DENSE_LAYERS,), default=_experts_where, rules={"decoder_sparse_step": 1}
    ),
    axes=mixers.by_name(*mixers.transformer_axes("TX", mlp="T"), *mixers.expert_axes("X")),
    config_keys={**LLAMA.config_keys, **EXPERT_KEYS},
    defaults={**LLAMA.defaults, "num_key_value_heads": lambda _: 4, "head_dim": default_head_dim},
    multiples=(),
    block_tensors={
        "T": (_FIRST, *_ATTENTION, _SECOND, *mixers.gated_feed_forward("mlp")),
        "X": (_FIRST, *_ATTENTION, _SECOND, *mixers.gated_experts("mlp")),
    },
    keeps={"T": "kv", "X": "kv"},
    hook_points={
        "hidden": {
            "T": (_READ_BY_ATTENTION, mixers.read_from("post_attention_layernorm", *GATED_MLP)),
            "X": (_READ_BY_ATTENTION, mixers.read_from("post_attention_layernorm", *EXPERT_READERS)),
        },
        "ffn": {"T": mixers.input_of("mlp.down_proj")},
        "ffn_preactivation": {"T": (HookPoint(module="mlp.gate_proj", side="output"),)},
        "attention_output": dict.fromkeys("TX", mixers.input_of("self_attn.o_proj")),
    },
    branches={"T": (_ATTENTION_BRANCH, Branch(projection="mlp.down_proj")), "X": (_ATTENTION_BRANCH,)},
    experts={"X": "mlp.experts"},
)

DELTA_KEYS = {
    name: (name,)
    for name in (
        "linear_num_key_heads",
        "linear_num_value_heads",
        "linear_key_head_dim",
        "linear_value_head_dim",
        "linear_conv_kernel_dim",
    )
}
DELTA_READERS = tuple(f"linear_attn.in_proj_{name}.weight" for name in ("qkv", "z", "b", "a"))
DELTA_BRANCH = Branch(projection="linear_attn.out_proj", entered="post_attention_layernorm")


_LAYER_TYPES = LayerList(key="layer_types", values={"G": ("linear_attention",), "T": ("full_attention",)})


def _every_fourth(config: Mapping[str, object], blocks: int) -> str:
    interval = config.get("full_attention_interval", 4)
    assert isinstance(interval, int)
    return "".join("G" if (layer + 1) % interval else "T" for layer in range(blocks))


def _layers(*second: TensorSpec) -> dict[str, tuple[TensorSpec, ...]]:
    first = mixers.norm("input_layernorm.weight", plus=1.0)
    behind = (mixers.norm("post_attention_layernorm.weight", plus=1.0), *second)
    attention = mixers.attention("self_attn", query=mixers.GATED_QUERY, head_norms=1.0)
    return {"G": (first, *mixers.gated_delta_net("linear_attn"), *behind), "T": (first, *attention, *behind)}


def _hidden(*readers: str) -> dict[str, tuple[HookPoint, ...]]:
    behind = mixers.read_from("post_attention_layernorm", *readers)
    return {"G": (mixers.read_from("input_layernorm", *DELTA_READERS), behind), "T": (_READ_BY_ATTENTION, behind)}


QWEN3_5_TEXT = replace(
    LLAMA,
    model_type="qwen3_5_text",
    block_kinds={"G": "gated DeltaNet and MLP", "T": "attention and MLP"},
    pattern=BlockPattern(
        letters="GT", lists=(_LAYER_TYPES,), default=_every_fourth, rules={"full_attention_interval": None}
    ),
    axes=mixers.by_name(
        *mixers.transformer_axes("T", mlp="GT"),
        Axis(name="linear_num_key_heads", blocks="G"),
        Axis(name="linear_num_value_heads", blocks="G", grouped_by="linear_num_key_heads"),
    ),
    config_keys={**LLAMA.config_keys, **DELTA_KEYS},
    defaults={
        **LLAMA.defaults,
        "num_attention_heads": lambda _: 16,
        "num_key_value_heads": lambda _: 4,
        "head_dim": lambda _: 256,
        "linear_num_key_heads": lambda _: 16,
        "linear_num_value_heads": lambda _: 32,
        "linear_key_head_dim": lambda _: 128,
        "linear_value_head_dim": lambda _: 128,
        "linear_conv_kernel_dim": lambda _: 4,
    },
    multiples=(),
    model_tensors=tied(plus=1.0),
    beside=("model.visual.", "visual.", "mtp."),
    block_tensors=_layers(*mixers.gated_feed_forward("mlp")),
    keeps={"G": "state", "T": "kv"},
    state=GATED_DELTA_NET,
    hook_points={
        "hidden": _hidden(*GATED_MLP),
        "ffn": dict.fromkeys("GT", mixers.input_of("mlp.down_proj")),
        "ffn_preactivation": dict.fromkeys("GT", (HookPoint(module="mlp.gate_proj", side="output"),)),
        "attention_output": {"T": mixers.input_of("self_attn.o_proj")},
        "delta_output": {"G": mixers.input_of("linear_attn.out_proj")},
    },
    branches={
        "G": (DELTA_BRANCH, Branch(projection="mlp.down_proj")),
        "T": (_ATTENTION_BRANCH, Branch(projection="mlp.down_proj")),
    },
)

QWEN3_5_MOE_TEXT = replace(
    QWEN3_5_TEXT,
    model_type="qwen3_5_moe_text",
    block_kinds={"G": "gated DeltaNet and experts", "T": "attention and experts"},
    axes=mixers.by_name(
        *(axis for axis in QWEN3_5_TEXT.axes.values() if axis.name != "intermediate_size"),
        *mixers.expert_axes("GT"),
        Axis(name="moe_shared_expert_intermediate_size", blocks="GT"),
    ),
    config_keys={
        **{name: keys for name, keys in QWEN3_5_TEXT.config_keys.items() if name != "intermediate_size"},
        **EXPERT_KEYS,
        "moe_shared_expert_intermediate_size": ("shared_expert_intermediate_size",),
    },
    defaults={**QWEN3_5_TEXT.defaults, "num_key_value_heads": lambda _: 2},
    block_tensors=_layers(
        *mixers.gated_experts("mlp"),
        *mixers.gated_feed_forward("mlp.shared_expert", "moe_shared_expert_intermediate_size"),
        TensorSpec("mlp.shared_expert_gate.weight", (ONE, HIDDEN)),
    ),
    hook_points={
        "hidden": _hidden(
            *EXPERT_READERS,
            "mlp.shared_expert.gate_proj.weight",
            "mlp.shared_expert.up_proj.weight",
            "mlp.shared_expert_gate.weight",
        ),
        "shared_ffn": dict.fromkeys("GT", (replace(mixers.input_of("mlp.shared_expert.down_proj")[0], flat=True),)),
        "attention_output": QWEN3_5_TEXT.hook_points["attention_output"],
        "delta_output": QWEN3_5_TEXT.hook_points["delta_output"],
    },
    # What a shared expert adds goes through a gate of its own, so its projection is not refitted to the stream.
    branches={"G": (DELTA_BRANCH,), "T": (_ATTENTION_BRANCH,)},
    experts=dict.fromkeys("GT", "mlp.experts"),
)
