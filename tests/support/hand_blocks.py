"""Mixers and MLPs that several families share, cut by hand."""

# D hidden, F ffn, H mamba heads, P channels of a head, G groups, N state, K channels of an attention head

from collections.abc import Iterable
from typing import Any

import numpy as np

from minitron.prune.plan import PrunePlan

Array = Any
Weights = dict[str, Array]


def kept(plan: PrunePlan, axis: str, layer: int | None) -> list[int]:
    """Units of an axis that stay, in their new order."""
    found = plan.keep.indices.get((axis, layer))
    return list(range(plan.source.sizes[axis])) if found is None else found.tolist()


def neurons_of(plan: PrunePlan, layer: int, expert: int) -> list[int]:
    """Neurons of one expert that stay."""
    rows = plan.keep.indices.get(("moe_intermediate_size", layer))
    return list(range(plan.source.moe_intermediate_size)) if rows is None else rows[expert].tolist()


def runs(units: Iterable[int], width: int, first: int = 0) -> list[int]:
    """Positions of units that each have a run of so many."""
    return [first + unit * width + channel for unit in units for channel in range(width)]


def dense_mlp(own: Weights, neurons: list[int], hidden: list[int], prefix: str) -> Weights:
    """Up and down, and a gate where there is one."""
    names = [name for name in ("gate_proj", "up_proj") if f"{prefix}{name}.weight" in own]
    read = {f"{prefix}{name}.weight": own[f"{prefix}{name}.weight"][neurons][:, hidden] for name in names}
    return read | {f"{prefix}down_proj.weight": own[f"{prefix}down_proj.weight"][hidden][:, neurons]}


def attention(
    own: Weights, plan: PrunePlan, layer: int, hidden: list[int], prefix: str, *, is_gated: bool = False
) -> Weights:
    """Heads of queries, with their gates where they have some, and heads of keys and values."""
    K, heads = plan.source.head_dim, kept(plan, "num_attention_heads", layer)
    shared = runs(kept(plan, "num_key_value_heads", layer), K)
    rows = {"q_proj": runs(heads, 2 * K if is_gated else K), "k_proj": shared, "v_proj": shared}
    after = {f"{prefix}{name}.weight": own[f"{prefix}{name}.weight"][at][:, hidden] for name, at in rows.items()}
    biases = {f"{prefix}{name}.bias": at for name, at in rows.items() if f"{prefix}{name}.bias" in own}
    norms = [f"{prefix}{name}.weight" for name in ("q_norm", "k_norm") if f"{prefix}{name}.weight" in own]
    return {
        **after,
        **{name: own[name][at] for name, at in biases.items()},
        **{name: own[name] for name in norms},
        f"{prefix}o_proj.weight": own[f"{prefix}o_proj.weight"][hidden][:, runs(heads, K)],
    }


def mamba(own: Weights, plan: PrunePlan, layer: int, hidden: list[int], prefix: str) -> Weights:
    """A Mamba-2 mixer."""
    shape = plan.source
    part = {name.removeprefix(prefix): w for name, w in own.items() if name.startswith(prefix)}
    H, P, GN = shape.mamba_num_heads, shape.mamba_head_dim, shape.n_groups * shape.ssm_state_size
    heads, channels = kept(plan, "mamba_num_heads", layer), kept(plan, "mamba_head_dim", layer)
    inner = np.array([head * P + channel for head in heads for channel in channels])
    z, x, B, C, dt = np.split(part["in_proj.weight"], [H * P, 2 * H * P, 2 * H * P + GN, 2 * H * P + 2 * GN])
    after = {
        "in_proj.weight": np.concatenate([z[inner], x[inner], B, C, dt[heads]])[:, hidden],
        "conv1d.weight": np.concatenate([part["conv1d.weight"][inner], part["conv1d.weight"][H * P :]]),
        "conv1d.bias": np.concatenate([part["conv1d.bias"][inner], part["conv1d.bias"][H * P :]]),
        "A_log": part["A_log"][heads],
        "D": part["D"][heads],
        "dt_bias": part["dt_bias"][heads],
        "norm.weight": part["norm.weight"][inner],
        "out_proj.weight": part["out_proj.weight"][hidden][:, inner],
    }
    return {prefix + name: w for name, w in after.items()}


def delta_net(own: Weights, plan: PrunePlan, layer: int, hidden: list[int]) -> Weights:
    """A gated DeltaNet mixer: [queries, keys, values], the first two by key heads, all else by value heads."""
    shape = plan.source
    part = {name.removeprefix("linear_attn."): w for name, w in own.items() if name.startswith("linear_attn.")}
    N, P = shape.linear_key_head_dim, shape.linear_value_head_dim
    keys, values = kept(plan, "linear_num_key_heads", layer), kept(plan, "linear_num_value_heads", layer)
    whole = shape.linear_num_key_heads * N
    mixed = [*runs(keys, N), *runs(keys, N, whole), *runs(values, P, 2 * whole)]
    after = {
        "in_proj_qkv.weight": part["in_proj_qkv.weight"][mixed][:, hidden],
        "in_proj_z.weight": part["in_proj_z.weight"][runs(values, P)][:, hidden],
        "in_proj_a.weight": part["in_proj_a.weight"][values][:, hidden],
        "in_proj_b.weight": part["in_proj_b.weight"][values][:, hidden],
        "conv1d.weight": part["conv1d.weight"][mixed],
        "A_log": part["A_log"][values],
        "dt_bias": part["dt_bias"][values],
        "norm.weight": part["norm.weight"],
        "out_proj.weight": part["out_proj.weight"][hidden][:, runs(values, P)],
    }
    return {f"linear_attn.{name}": w for name, w in after.items()}


def relu_experts(own: Weights, plan: PrunePlan, layer: int, hidden: list[int]) -> Weights:
    """Experts with a shared one that is always used, which may read latent channels."""
    experts = kept(plan, "n_routed_experts", layer)
    shared = kept(plan, "moe_shared_expert_intermediate_size", layer)
    after = {
        "mixer.gate.weight": own["mixer.gate.weight"][experts][:, hidden],
        "mixer.gate.e_score_correction_bias": own["mixer.gate.e_score_correction_bias"][experts],
        **dense_mlp(own, shared, hidden, "mixer.shared_experts."),
    }
    read = hidden
    if "mixer.fc1_latent_proj.weight" in own:
        after["mixer.fc1_latent_proj.weight"] = own["mixer.fc1_latent_proj.weight"][:, hidden]
        after["mixer.fc2_latent_proj.weight"] = own["mixer.fc2_latent_proj.weight"][hidden]
        read = list(range(plan.source.moe_latent_size))
    for position, expert in enumerate(experts):
        cut = dense_mlp(own, neurons_of(plan, layer, expert), read, f"mixer.experts.{expert}.")
        after |= {name.replace(f".{expert}.", f".{position}."): w for name, w in cut.items()}
    return after
