"""Layers of a Mamba-2 or attention mixer and a gated MLP, beside which experts may stand: granitemoehybrid and bamba.

Source of names: transformers 5.23, models/granitemoehybrid/, models/bamba/ and conversion_mapping.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from minitron.models.axes import Axis, TensorSpec
from minitron.models.families import mixers
from minitron.models.families.dense import LLAMA, all_alike, tied
from minitron.models.families.family import Branch, Family, HookPoint
from minitron.models.families.layer_lists import BlockPattern, LayerList
from minitron.models.families.mixers import EXPERT_FFN, EXPERTS, HIDDEN
from minitron.models.families.multiple import Multiple
from minitron.models.families.recurrent import MAMBA2

SHARED_FFN = (("moe_shared_expert_intermediate_size",),)
# Gate and up projection are one matrix, on disk as in memory.
GATE_UP_SHARED = ((*SHARED_FFN, *SHARED_FFN), HIDDEN)
GATE_UP_EXPERT = ((*EXPERT_FFN, *EXPERT_FFN), HIDDEN)
MOE = "block_sparse_moe"
LETTERS = "HT"

MAMBA_KEYS = {
    "mamba_num_heads": ("mamba_n_heads",),
    "mamba_head_dim": ("mamba_d_head",),
    "n_groups": ("mamba_n_groups",),
    "ssm_state_size": ("mamba_d_state",),
    "conv_kernel": ("mamba_d_conv",),
}
MAMBA_AXES = (
    Axis(name="mamba_num_heads", blocks="H", grouped_by="n_groups"),
    Axis(name="mamba_head_dim", blocks="H"),
)
WHOLE_EXPANSION = Multiple(
    sizes=("mamba_num_heads", "mamba_head_dim"),
    of=("hidden_size",),
    because="transformers asks that heads times channels be mamba_expand, a whole number, times the hidden size",
)
MIXER_MODULES = {"H": "mamba.out_proj", "T": "self_attn.o_proj"}


def expand(sizes: Mapping[str, int]) -> int:
    """`mamba_expand`: Mamba's channels over hidden ones."""
    return sizes["mamba_num_heads"] * sizes["mamba_head_dim"] // sizes["hidden_size"]


def layers(feed_forward: tuple[TensorSpec, ...], second_norm: str) -> dict[str, tuple[TensorSpec, ...]]:
    """Letter -> tensors of a layer: its mixer and its MLP, each behind a norm."""
    mixer = {"H": mixers.mamba2("mamba"), "T": mixers.attention("self_attn")}
    first, second = mixers.norm("input_layernorm.weight"), mixers.norm(f"{second_norm}.weight")
    return {letter: (first, *mixer[letter], second, *feed_forward) for letter in LETTERS}


def hidden_points(second_norm: str, *readers: str) -> Mapping[str, tuple[HookPoint, ...]]:
    """Letter -> the norms' outputs and what reads them."""
    mixer_readers = {"H": ("mamba.in_proj.weight",), "T": mixers.attention_readers("self_attn")}
    return {
        letter: (mixers.read_from("input_layernorm", *mixer_readers[letter]), mixers.read_from(second_norm, *readers))
        for letter in LETTERS
    }


MAMBA_POINTS: Mapping[str, Mapping[str, tuple[HookPoint, ...]]] = {
    "mamba_x": {"H": (HookPoint(module="mamba.in_proj", side="output", part=("mamba.in_proj.weight", 0, 1)),)},
    "mamba_output": {"H": mixers.input_of("mamba.out_proj")},
    "attention_output": {"T": mixers.input_of("self_attn.o_proj")},
}


def branches(second_norm: str, down: str) -> dict[str, tuple[Branch, ...]]:
    """Letter -> the mixer's branch and the MLP's."""
    return {
        letter: (Branch(projection=MIXER_MODULES[letter], entered=second_norm), Branch(projection=down))
        for letter in LETTERS
    }


_routed = partial(TensorSpec, needs="n_routed_experts")
_KINDS = {"H": ("mamba", "linear_attention"), "T": ("attention", "full_attention")}

GRANITEMOEHYBRID = Family(
    model_type="granitemoehybrid",
    block_kinds={"H": "Mamba-2 and MLP", "T": "attention and MLP"},
    pattern=BlockPattern(
        letters=LETTERS,
        lists=(LayerList(key="layer_types", values=_KINDS), LayerList(key="layers_block_type", values=_KINDS)),
        default=all_alike("H"),
    ),
    axes=mixers.by_name(
        Axis(name="hidden_size"),
        Axis(name="moe_shared_expert_intermediate_size", blocks=LETTERS),
        *MAMBA_AXES,
        *mixers.attention_axes("T"),
        *mixers.expert_axes(LETTERS),
    ),
    config_keys={
        **{name: keys for name, keys in LLAMA.config_keys.items() if name != "intermediate_size"},
        **MAMBA_KEYS,
        "moe_shared_expert_intermediate_size": ("shared_intermediate_size",),
        "n_routed_experts": ("num_local_experts",),
        "num_experts_per_tok": ("num_experts_per_tok",),
        "moe_intermediate_size": ("intermediate_size",),
    },
    switches=LLAMA.switches,
    defaults=LLAMA.defaults,
    multiples=(WHOLE_EXPANSION,),
    derived={"mamba_expand": expand},
    left_out=mixers.UNLIMITED_TIME_STEPS,
    embeddings=LLAMA.embeddings,
    final_norm=LLAMA.final_norm,
    head=LLAMA.head,
    model_tensors=tied(),
    block_tensors=layers(
        (
            TensorSpec("shared_mlp.input_linear.weight", GATE_UP_SHARED),
            TensorSpec("shared_mlp.output_linear.weight", (HIDDEN, SHARED_FFN)),
            _routed(f"{MOE}.router.layer.weight", (EXPERTS, HIDDEN), in_memory=f"{MOE}.router.weight", routes=True),
            _routed(
                f"{MOE}.input_linear.weight",
                GATE_UP_EXPERT,
                stacked="n_routed_experts",
                in_memory=f"{MOE}.experts.gate_up_proj",
            ),
            _routed(
                f"{MOE}.output_linear.weight",
                (HIDDEN, EXPERT_FFN),
                stacked="n_routed_experts",
                in_memory=f"{MOE}.experts.down_proj",
            ),
        ),
        "post_attention_layernorm",
    ),
    block_prefix=LLAMA.block_prefix,
    prefix_on_disk="model.",
    prefix_in_memory="model.",
    only_values={
        "attention_bias": (False,),
        "mamba_proj_bias": (False,),
        "mamba_conv_bias": (True,),
    },
    keeps={"T": "kv", "H": "state"},
    state=MAMBA2,
    hook_points={
        "hidden": hidden_points(
            "post_attention_layernorm",
            "shared_mlp.input_linear.weight",
            f"{MOE}.router.weight",
            f"{MOE}.experts.gate_up_proj",
        ),
        "shared_ffn": dict.fromkeys(LETTERS, mixers.input_of("shared_mlp.output_linear")),
        **MAMBA_POINTS,
    },
    branches=branches("post_attention_layernorm", "shared_mlp.output_linear"),
    experts=dict.fromkeys(LETTERS, f"{MOE}.experts"),
    embedding_multiplier="embedding_multiplier",
    logits_divisor="logits_scaling",
    residual_multiplier="residual_multiplier",
)

BAMBA = replace(
    GRANITEMOEHYBRID,
    model_type="bamba",
    pattern=BlockPattern(
        letters=LETTERS,
        lists=(LayerList(key="attn_layer_indices", values={"T": (True,)}, form="indices"),),
        default=all_alike("H"),
    ),
    axes=mixers.by_name(*mixers.transformer_axes("T", mlp=LETTERS), *MAMBA_AXES),
    config_keys={**LLAMA.config_keys, **MAMBA_KEYS},
    defaults={**GRANITEMOEHYBRID.defaults, "num_key_value_heads": lambda _: 8},
    final_norm="model.final_layernorm.weight",
    model_tensors=(
        *(spec for spec in tied() if spec.norm is None),
        mixers.norm("model.final_layernorm.weight"),
    ),
    block_tensors=layers(mixers.gated_feed_forward("feed_forward"), "pre_ff_layernorm"),
    only_values={**GRANITEMOEHYBRID.only_values, "mlp_bias": (False,)},
    hook_points={
        "hidden": hidden_points("pre_ff_layernorm", "feed_forward.gate_proj.weight", "feed_forward.up_proj.weight"),
        "ffn": dict.fromkeys(LETTERS, mixers.input_of("feed_forward.down_proj")),
        "ffn_preactivation": dict.fromkeys(LETTERS, (HookPoint(module="feed_forward.gate_proj", side="output"),)),
        **MAMBA_POINTS,
    },
    branches=branches("pre_ff_layernorm", "feed_forward.down_proj"),
    experts={},
    embedding_multiplier=None,
    logits_divisor=None,
    residual_multiplier=None,
)
