"""Declarations that families share: dims, and the tensors of the mixers that they are put together from."""

from collections.abc import Mapping
from functools import partial

from minitron.models.axes import Axis, Dim, TensorSpec
from minitron.models.families.family import HookPoint

HIDDEN = (("hidden_size",),)
FFN = (("intermediate_size",),)
VOCAB = (("vocab_size",),)
QUERY = (("num_attention_heads", "head_dim"),)
KEY_VALUE = (("num_key_value_heads", "head_dim"),)
HEAD_DIM = (("head_dim",),)
GATED_QUERY = (("num_attention_heads", 2, "head_dim"),)  # [query, gate] of each head
EXPERTS = (("n_routed_experts",),)
EXPERT_FFN = (("moe_intermediate_size",),)
HEADS = (("mamba_num_heads",),)
CHANNELS = ("mamba_num_heads", "mamba_head_dim")
STATE = ("n_groups", "ssm_state_size")
DELTA_KEYS = ("linear_num_key_heads", "linear_key_head_dim")
DELTA_VALUES = ("linear_num_value_heads", "linear_value_head_dim")
DELTA_HEADS = (("linear_num_value_heads",),)
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

# What configurations say of time steps without limits, which has no spelling in JSON.
UNLIMITED_TIME_STEPS = {"time_step_limit": ([0.0, {"__float__": "Infinity"}], [0.0, float("inf")])}


def by_name(*axes: Axis) -> Mapping[str, Axis]:
    """Axes by their names."""
    return {axis.name: axis for axis in axes}


def norm(name: str, dim: Dim = (("hidden_size",),), *, plus: float = 0.0) -> TensorSpec:
    """The weight of a norm, to which the model adds `plus` before it multiplies."""
    return TensorSpec(name, (dim,), norm=plus)


def attention(
    module: str, *, query: Dim = QUERY, biases: tuple[str, ...] = (), head_norms: float | None = None
) -> tuple[TensorSpec, ...]:
    """Grouped-query attention: query, key, value and output projections.

    Args:
        module: Path of the mixer in its block.
        query: Rows of the query projection; `GATED_QUERY` where each head has a gate beside its query.
        biases: Which of q, k, v have a bias.
        head_norms: What the norms of queries and keys add to their weights; None where there are none.
    """
    rows = {"q": query, "k": KEY_VALUE, "v": KEY_VALUE}
    norms = [] if head_norms is None else [norm(f"{module}.{x}_norm.weight", HEAD_DIM, plus=head_norms) for x in "qk"]
    return (
        *(TensorSpec(f"{module}.{name}_proj.weight", (dim, HIDDEN)) for name, dim in rows.items()),
        *(TensorSpec(f"{module}.{name}_proj.bias", (rows[name],)) for name in biases),
        TensorSpec(f"{module}.o_proj.weight", (HIDDEN, QUERY)),
        *norms,
    )


def feed_forward(module: str, width: str = "intermediate_size") -> tuple[TensorSpec, ...]:
    """An MLP without a gate: up and down projections."""
    return (
        TensorSpec(f"{module}.up_proj.weight", (((width,),), HIDDEN)),
        TensorSpec(f"{module}.down_proj.weight", (HIDDEN, ((width,),))),
    )


def gated_feed_forward(module: str, width: str = "intermediate_size") -> tuple[TensorSpec, ...]:
    """An MLP whose gate multiplies the output of the up projection."""
    return (TensorSpec(f"{module}.gate_proj.weight", (((width,),), HIDDEN)), *feed_forward(module, width))


def gated_experts(module: str) -> tuple[TensorSpec, ...]:
    """Routed experts that are gated MLPs, apart on disk; in memory gate and up are one stack."""
    stacked = partial(TensorSpec, stacked="n_routed_experts")
    gate_up = f"{module}.experts.gate_up_proj"
    return (
        TensorSpec(f"{module}.gate.weight", (EXPERTS, HIDDEN), routes=True),
        stacked(f"{module}.experts.{{}}.gate_proj.weight", (EXPERT_FFN, HIDDEN), in_memory=gate_up, fused=(0, 2)),
        stacked(f"{module}.experts.{{}}.up_proj.weight", (EXPERT_FFN, HIDDEN), in_memory=gate_up, fused=(1, 2)),
        stacked(
            f"{module}.experts.{{}}.down_proj.weight", (HIDDEN, EXPERT_FFN), in_memory=f"{module}.experts.down_proj"
        ),
    )


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
        norm(f"{module}.norm.weight", (CHANNELS,)),
        TensorSpec(f"{module}.out_proj.weight", (HIDDEN, (CHANNELS,))),
    )


def gated_delta_net(module: str) -> tuple[TensorSpec, ...]:
    """A gated DeltaNet mixer (arXiv 2412.06464): value heads sit together by the key head that they share."""
    return (
        # rows [query, key, value]
        TensorSpec(f"{module}.in_proj_qkv.weight", ((DELTA_KEYS, DELTA_KEYS, DELTA_VALUES), HIDDEN)),
        TensorSpec(f"{module}.in_proj_z.weight", ((DELTA_VALUES,), HIDDEN)),
        TensorSpec(f"{module}.in_proj_b.weight", (DELTA_HEADS, HIDDEN)),
        TensorSpec(f"{module}.in_proj_a.weight", (DELTA_HEADS, HIDDEN)),
        TensorSpec(
            f"{module}.conv1d.weight", ((DELTA_KEYS, DELTA_KEYS, DELTA_VALUES), ONE, (("linear_conv_kernel_dim",),))
        ),
        TensorSpec(f"{module}.A_log", (DELTA_HEADS,)),
        TensorSpec(f"{module}.dt_bias", (DELTA_HEADS,)),
        norm(f"{module}.norm.weight", (("linear_value_head_dim",),)),
        TensorSpec(f"{module}.out_proj.weight", (HIDDEN, (DELTA_VALUES,))),
    )


def transformer_axes(attention: str, *, mlp: str) -> tuple[Axis, ...]:
    """The axes of the hidden channels, of an MLP and of grouped-query attention, each in blocks of some letters."""
    return Axis(name="hidden_size"), Axis(name="intermediate_size", blocks=mlp), *attention_axes(attention)


def attention_axes(blocks: str) -> tuple[Axis, ...]:
    """The axes of grouped-query attention in blocks of some letters."""
    return (
        Axis(name="num_key_value_heads", blocks=blocks),
        Axis(name="num_attention_heads", blocks=blocks, grouped_by="num_key_value_heads"),
    )


def expert_axes(blocks: str) -> tuple[Axis, ...]:
    """The axes of routed experts in blocks of some letters, which routers choose among without groups."""
    return (
        Axis(
            name="n_routed_experts",
            blocks=blocks,
            used="num_experts_per_tok",
            at_least=lambda sizes: sizes["num_experts_per_tok"],
        ),
        Axis(name="moe_intermediate_size", blocks=blocks, per="n_routed_experts"),
    )


def attention_readers(module: str) -> tuple[str, ...]:
    """Parameters of an attention mixer that are multiplied with its input."""
    return tuple(f"{module}.{name}_proj.weight" for name in ("q", "k", "v"))


def input_of(module: str) -> tuple[HookPoint, ...]:
    """The input of an output projection, which multiplies it."""
    return (HookPoint(module=module, side="input", readers=(f"{module}.weight",)),)


def read_from(module: str, *readers: str) -> HookPoint:
    """The output of a norm, which input projections multiply."""
    return HookPoint(module=module, side="output", readers=readers)
