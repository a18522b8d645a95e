"""The nemotron_h family: Nemotron-H, Nemotron Nano 2 and Nemotron 3 (arXiv 2504.03624, 2508.14444, 2512.20848).

Source of names and orders: transformers 5.23, models/nemotron_h/modeling_nemotron_h.py and conversion_mapping.py.
"""

from collections.abc import Mapping

from minitron.models.axes import Axis, TensorSpec
from minitron.models.families import mixers
from minitron.models.families.family import Branch, Family, HookPoint
from minitron.models.families.layer_lists import BlockPattern, LayerList
from minitron.models.families.mixers import EXPERT_FFN, EXPERTS, HIDDEN, VOCAB
from minitron.models.families.recurrent import MAMBA2

SHARED_FFN = (("moe_shared_expert_intermediate_size",),)
LATENT = (("moe_latent_size",),)

# What llama.cpp's converter assumes of a Mamba head where there is no `mamba_d_head`; heads must fill it evenly.
CONVERTER_HEAD_DIM = 64
# What SGLang 0.5.23 (configs/nemotron_h.py) takes where there is no `mamba_n_groups`, whatever `n_groups` is.
SGLANG_GROUPS = 8

NORM = mixers.norm("norm.weight")
MAMBA = (NORM, *mixers.mamba2("mixer"))
MLP = (NORM, *mixers.feed_forward("mixer"))
ATTENTION = (NORM, *mixers.attention("mixer"))


def expert(projection: str, *, latent: bool) -> TensorSpec:
    """One projection of every routed expert, which reads and writes hidden channels or the latent ones."""
    width = LATENT if latent else HIDDEN
    return TensorSpec(
        f"mixer.experts.{{}}.{projection}.weight",
        (EXPERT_FFN, width) if projection == "up_proj" else (width, EXPERT_FFN),
        stacked="n_routed_experts",
        in_memory=f"mixer.experts.{projection}",
        needs="moe_latent_size" if latent else None,
        lacks=None if latent else "moe_latent_size",
    )


def least_experts(sizes: Mapping[str, int]) -> int:
    """The fewest experts that routing works with: a group needs two to be ranked, a token its top k in its groups."""
    # A group is ranked by its two best experts; a token finds its experts in topk_group of the groups.
    a_group = max(2, -(-sizes["num_experts_per_tok"] // max(1, sizes["topk_group"])))
    return sizes["n_group"] * a_group


MOE = (
    NORM,
    TensorSpec("mixer.gate.weight", (EXPERTS, HIDDEN), routes=True),
    TensorSpec("mixer.gate.e_score_correction_bias", (EXPERTS,), routes=True),
    *(expert(projection, latent=latent) for latent in (False, True) for projection in ("up_proj", "down_proj")),
    TensorSpec("mixer.shared_experts.up_proj.weight", (SHARED_FFN, HIDDEN)),
    TensorSpec("mixer.shared_experts.down_proj.weight", (HIDDEN, SHARED_FFN)),
    TensorSpec("mixer.fc1_latent_proj.weight", (LATENT, HIDDEN), needs="moe_latent_size"),
    TensorSpec("mixer.fc2_latent_proj.weight", (HIDDEN, LATENT), needs="moe_latent_size"),
)


def unlike_the_converters(sizes: Mapping[str, int]) -> int | None:
    """`mamba_d_head` where llama.cpp's converter would assume another."""
    even = sizes["mamba_num_heads"] * sizes["mamba_head_dim"] % CONVERTER_HEAD_DIM == 0
    return None if even else sizes["mamba_head_dim"]


def unlike_sglangs(sizes: Mapping[str, int]) -> int | None:
    """`mamba_n_groups` where SGLang would assume another."""
    return None if sizes["n_groups"] in (0, SGLANG_GROUPS) else sizes["n_groups"]


def normed(*readers: str) -> tuple[HookPoint, ...]:
    """The output of a block's pre-norm, which the block's input projections multiply."""
    return (HookPoint(module="norm", side="output", readers=readers),)


# The names up to transformers 5.12 first; later ones read them too, SGLang 0.5.23 no others.
KIND_NAMES = {
    "M": ("mamba", "linear_attention"),
    "-": ("mlp",),
    "*": ("attention", "full_attention"),
    "E": ("moe",),
}

NEMOTRON_H = Family(
    model_type="nemotron_h",
    block_kinds={"M": "Mamba-2", "-": "MLP", "*": "attention", "E": "experts"},
    pattern=BlockPattern(
        letters="M-*E",
        lists=(
            LayerList(
                key="hybrid_override_pattern",
                values={letter: (letter,) for letter in "M-*E"},
                form="letters",
                added=True,
            ),
            LayerList(key="layers_block_type", values=KIND_NAMES),
            LayerList(key="layer_types", values=KIND_NAMES),
        ),
    ),
    axes=mixers.by_name(
        Axis(name="hidden_size"),
        Axis(name="intermediate_size", blocks="-"),
        Axis(name="mamba_num_heads", blocks="M", grouped_by="n_groups"),
        Axis(name="mamba_head_dim", blocks="M"),
        Axis(name="num_key_value_heads", blocks="*"),
        Axis(name="num_attention_heads", blocks="*", grouped_by="num_key_value_heads"),
        Axis(
            name="n_routed_experts",
            blocks="E",
            grouped_by="n_group",
            used="num_experts_per_tok",
            at_least=least_experts,
        ),
        Axis(name="moe_intermediate_size", blocks="E", per="n_routed_experts"),
        Axis(name="moe_shared_expert_intermediate_size", blocks="E"),
    ),
    config_keys={
        **mixers.TRANSFORMER_KEYS,
        "head_dim": ("head_dim", "attention_head_dim"),
        "mamba_num_heads": ("mamba_num_heads", "mamba_n_heads"),
        "mamba_head_dim": ("mamba_head_dim", "mamba_d_head"),
        "n_groups": ("n_groups", "mamba_n_groups", "mamba_num_groups"),
        "ssm_state_size": ("ssm_state_size", "mamba_state_dim", "mamba_d_state"),
        "conv_kernel": ("conv_kernel", "mamba_d_conv"),
        **mixers.EXPERT_KEYS,
        "n_routed_experts": ("n_routed_experts", "num_local_experts"),
        "moe_latent_size": ("moe_latent_size",),
    },
    defaults={"n_group": lambda _: 1, "topk_group": lambda _: 1, "moe_latent_size": lambda _: 0},
    kind_sizes={"E": (*mixers.EXPERT_KEYS, "moe_latent_size")},
    told={"mamba_d_head": unlike_the_converters, "mamba_n_groups": unlike_sglangs},
    # Infinity has no spelling in JSON; transformers and mlx-lm take (0, infinity) where there is none.
    left_out=mixers.UNLIMITED_TIME_STEPS,
    embeddings="backbone.embeddings.weight",
    final_norm="backbone.norm_f.weight",
    head="lm_head.weight",
    model_tensors=(
        TensorSpec("backbone.embeddings.weight", (VOCAB, HIDDEN)),
        mixers.norm("backbone.norm_f.weight"),
        TensorSpec("lm_head.weight", (VOCAB, HIDDEN)),
    ),
    block_tensors={"M": MAMBA, "-": MLP, "*": ATTENTION, "E": MOE},
    block_prefix="backbone.layers.{layer}.",
    prefix_on_disk="backbone.",
    prefix_in_memory="model.",
    # Names and shapes: vLLM, models/nemotron_h_mtp.py. The input of eh_proj is [embedding, hidden state].
    extra_prefix="mtp.layers.",
    extra_tensors=(
        mixers.norm("enorm.weight"),
        mixers.norm("hnorm.weight"),
        TensorSpec("eh_proj.weight", (HIDDEN, (("hidden_size",), ("hidden_size",)))),
        mixers.norm("final_layernorm.weight"),
    ),
    extra_count="num_nextn_predict_layers",
    # transformers 5.23 does not tie this family's head, whatever the configuration says.
    only_values={
        "tie_word_embeddings": (False,),
        "use_bias": (False,),
        "mlp_bias": (False,),
        "attention_bias": (False,),
        "mamba_proj_bias": (False,),
        "use_conv_bias": (True,),
        "n_shared_experts": (0, 1),  # 0 in models without experts; transformers always makes one
    },
    keeps={"*": "kv", "M": "state"},
    state=MAMBA2,
    hook_points={
        "hidden": {
            "M": normed("mixer.in_proj.weight"),
            "-": normed("mixer.up_proj.weight"),
            "*": normed(*mixers.attention_readers("mixer")),
            "E": normed(
                "mixer.gate.weight",
                "mixer.experts.up_proj",
                "mixer.fc1_latent_proj.weight",
                "mixer.shared_experts.up_proj.weight",
            ),
        },
        "ffn": {"-": mixers.input_of("mixer.down_proj")},
        "ffn_preactivation": {"-": (HookPoint(module="mixer.up_proj", side="output"),)},
        "shared_ffn": {"E": mixers.input_of("mixer.shared_experts.down_proj")},
        "mamba_x": {"M": (HookPoint(module="mixer.in_proj", side="output", part=("mixer.in_proj.weight", 0, 1)),)},
        "mamba_output": {"M": mixers.input_of("mixer.out_proj")},
        "attention_output": {"*": mixers.input_of("mixer.o_proj")},
    },
    branches={
        "M": (Branch(projection="mixer.out_proj"),),
        "-": (Branch(projection="mixer.down_proj"),),
        "*": (Branch(projection="mixer.o_proj"),),
        "E": (Branch(projection="mixer.shared_experts.down_proj"),),
    },
    experts={"E": "mixer.experts"},
)
