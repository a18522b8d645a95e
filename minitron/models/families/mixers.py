"""Declarations that families share: dims, and the tensors of attention, feed-forward and Mamba-2 mixers."""

from collections.abc import Mapping

from minitron.models.axes import Axis, TensorSpec
from minitron.models.families.family import HookPoint

HIDDEN = (("hidden_size",),)
FFN = (("intermediate_size",),)
VOCAB = (("vocab_size",),)
QUERY = (("num_attention_heads", "head_dim"),)
KEY_VALUE = (("num_key_value_heads", "head_dim"),)
HEAD_DIM = (("head_dim",),)
HEADS = (("mamba_num_heads",),)
CHANNELS = ("mamba_num_heads", "mamba_head_dim")
STATE = ("n_groups", "ssm_state_size")
ONE = ((),)

# Names of sizes that every transformer's configuration spells alike.
TRANSFORMER_KEYS = {
    name: (name,)
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    )
}
# Names of sizes of experts, as most configurations spell them.
EXPERT_KEYS = {
    name: (name,)
    for name in (
        "n_routed_experts",
        "num_experts_per_tok",
        "n_group",
        "topk_group",
        "moe_intermediate_size",
        "moe_shared_expert_intermediate_size",
    )
}


def by_name(*axes: Axis) -> Mapping[str, Axis]:
    """Axes by their names."""
    return {axis.name: axis for axis in axes}


def attention(module: str) -> tuple[TensorSpec, ...]:
    """Grouped-query attention: query, key, value and output projections."""
    return (
        TensorSpec(f"{module}.q_proj.weight", (QUERY, HIDDEN)),
        TensorSpec(f"{module}.k_proj.weight", (KEY_VALUE, HIDDEN)),
        TensorSpec(f"{module}.v_proj.weight", (KEY_VALUE, HIDDEN)),
        TensorSpec(f"{module}.o_proj.weight", (HIDDEN, QUERY)),
    )


def feed_forward(module: str) -> tuple[TensorSpec, ...]:
    """An MLP without a gate: up and down projections."""
    return (
        TensorSpec(f"{module}.up_proj.weight", (FFN, HIDDEN)),
        TensorSpec(f"{module}.down_proj.weight", (HIDDEN, FFN)),
    )


def gated_feed_forward(module: str) -> tuple[TensorSpec, ...]:
    """An MLP whose gate multiplies the output of the up projection."""
    return (TensorSpec(f"{module}.gate_proj.weight", (FFN, HIDDEN)), *feed_forward(module))


def mamba2(module: str) -> tuple[TensorSpec, ...]:
    """A Mamba-2 mixer (arXiv 2405.21060): the fused input projection, convolution, per-head numbers, norm, output."""
    return (
        # rows [z, x, B, C, dt]
        TensorSpec(f"{module}.in_proj.weight", ((CHANNELS, CHANNELS, STATE, STATE, *HEADS), HIDDEN)),
        TensorSpec(f"{module}.conv1d.weight", ((CHANNELS, STATE, STATE), ONE, (("conv_kernel",),))),
        TensorSpec(f"{module}.conv1d.bias", ((CHANNELS, STATE, STATE),)),
        TensorSpec(f"{module}.A_log", (HEADS,)),
        TensorSpec(f"{module}.D", (HEADS,)),
        TensorSpec(f"{module}.dt_bias", (HEADS,)),
        TensorSpec(f"{module}.norm.weight", ((CHANNELS,),)),
        TensorSpec(f"{module}.out_proj.weight", (HIDDEN, (CHANNELS,))),
    )


def attention_readers(module: str) -> tuple[str, ...]:
    """Parameters of an attention mixer that are multiplied with its input."""
    return tuple(f"{module}.{name}_proj.weight" for name in ("q", "k", "v"))


def input_of(module: str) -> tuple[HookPoint, ...]:
    """The input of an output projection, which multiplies it."""
    return (HookPoint(module=module, side="input", readers=(f"{module}.weight",)),)
