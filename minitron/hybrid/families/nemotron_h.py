"""The nemotron_h family: Nemotron-H and Nemotron Nano 2 (arXiv 2504.03624, 2508.14444), dense blocks.

Source of names and orders: transformers 5.23, models/nemotron_h/modeling_nemotron_h.py.
"""

from minitron.hybrid.axes import Axis, TensorSpec
from minitron.hybrid.families.family import Branch, Family, Tap

HIDDEN = (("hidden_size",),)
FFN = (("intermediate_size",),)
VOCAB = (("vocab_size",),)
HEADS = (("mamba_num_heads",),)
CHANNELS = ("mamba_num_heads", "mamba_head_dim")
STATE = ("n_groups", "ssm_state_size")
QUERY = (("num_attention_heads", "head_dim"),)
KEY_VALUE = (("num_key_value_heads", "head_dim"),)
ONE = ((),)

NORM = TensorSpec("norm.weight", (HIDDEN,))

MAMBA = (
    NORM,
    TensorSpec("mixer.in_proj.weight", ((CHANNELS, CHANNELS, STATE, STATE, *HEADS), HIDDEN)),  # rows [z, x, B, C, dt]
    TensorSpec("mixer.conv1d.weight", ((CHANNELS, STATE, STATE), ONE, (("conv_kernel",),))),
    TensorSpec("mixer.conv1d.bias", ((CHANNELS, STATE, STATE),)),
    TensorSpec("mixer.A_log", (HEADS,)),
    TensorSpec("mixer.D", (HEADS,)),
    TensorSpec("mixer.dt_bias", (HEADS,)),
    TensorSpec("mixer.norm.weight", ((CHANNELS,),)),
    TensorSpec("mixer.out_proj.weight", (HIDDEN, (CHANNELS,))),
)
MLP = (
    NORM,
    TensorSpec("mixer.up_proj.weight", (FFN, HIDDEN)),
    TensorSpec("mixer.down_proj.weight", (HIDDEN, FFN)),
)
ATTENTION = (
    NORM,
    TensorSpec("mixer.q_proj.weight", (QUERY, HIDDEN)),
    TensorSpec("mixer.k_proj.weight", (KEY_VALUE, HIDDEN)),
    TensorSpec("mixer.v_proj.weight", (KEY_VALUE, HIDDEN)),
    TensorSpec("mixer.o_proj.weight", (HIDDEN, QUERY)),
)


def normed(*readers: str) -> Tap:
    """The output of a block's pre-norm, read by the block's input projections."""
    return Tap(module="norm", side="output", readers=readers)


def entering(module: str) -> Tap:
    """The input of an output projection, read by it."""
    return Tap(module=module, side="input", readers=(f"{module}.weight",))


NEMOTRON_H = Family(
    model_type="nemotron_h",
    block_kinds={"M": "linear_attention", "-": "mlp", "*": "full_attention"},
    axes={
        axis.name: axis
        for axis in (
            Axis(name="hidden_size"),
            Axis(name="intermediate_size", block="-"),
            Axis(name="mamba_num_heads", block="M", grouped_by="n_groups"),
            Axis(name="mamba_head_dim", block="M"),
            Axis(name="num_attention_heads", block="*", grouped_by="num_key_value_heads"),
        )
    },
    config_keys={
        "vocab_size": ("vocab_size",),
        "hidden_size": ("hidden_size",),
        "intermediate_size": ("intermediate_size",),
        "num_attention_heads": ("num_attention_heads",),
        "num_key_value_heads": ("num_key_value_heads",),
        "head_dim": ("head_dim", "attention_head_dim"),
        "mamba_num_heads": ("mamba_num_heads", "mamba_n_heads"),
        "mamba_head_dim": ("mamba_head_dim", "mamba_d_head"),
        "n_groups": ("n_groups", "mamba_n_groups", "mamba_num_groups"),
        "ssm_state_size": ("ssm_state_size", "mamba_state_dim", "mamba_d_state"),
        "conv_kernel": ("conv_kernel", "mamba_d_conv"),
    },
    model_tensors=(
        TensorSpec("backbone.embeddings.weight", (VOCAB, HIDDEN)),
        TensorSpec("backbone.norm_f.weight", (HIDDEN,)),
        TensorSpec("lm_head.weight", (VOCAB, HIDDEN)),
    ),
    block_tensors={"M": MAMBA, "-": MLP, "*": ATTENTION},
    block_prefix="backbone.layers.{layer}.",
    prefix_on_disk="backbone.",
    prefix_in_memory="model.",
    embeddings="backbone.embeddings.weight",
    final_norm="backbone.norm_f.weight",
    head="lm_head.weight",
    ignored_tensors=("mtp.",),
    taps={
        "hidden": {
            "M": normed("mixer.in_proj.weight"),
            "-": normed("mixer.up_proj.weight"),
            "*": normed("mixer.q_proj.weight", "mixer.k_proj.weight", "mixer.v_proj.weight"),
        },
        "ffn": {"-": entering("mixer.down_proj")},
        "ffn_preactivation": {"-": Tap(module="mixer.up_proj", side="output")},
        "mamba_x": {"M": Tap(module="mixer.in_proj", side="output", part=("mixer.in_proj.weight", 0, 1))},
        "mamba_output": {"M": entering("mixer.out_proj")},
        "attention_output": {"*": entering("mixer.o_proj")},
    },
    branches={
        "M": (Branch(projection="mixer.out_proj"),),
        "-": (Branch(projection="mixer.down_proj"),),
        "*": (Branch(projection="mixer.o_proj"),),
    },
)
