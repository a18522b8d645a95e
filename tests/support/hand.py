"""Pruned weights written out by hand, tensor by tensor: what the declared axes and their arithmetic must agree with."""

# D hidden, F ffn, H mamba heads, P channels of a head, G groups, N state, K channels of an attention head

from typing import Any

import numpy as np

from minitron.prune.plan import PrunePlan

Array = Any
Weights = dict[str, Array]


def sliced_by_hand(weights: Weights, plan: PrunePlan) -> Weights:
    """The tensors of the pruned model by their names in files."""
    hidden = kept(plan, "hidden_size", None)
    dense = plan.source.model_type != "nemotron_h"
    embeddings, norm = (
        ("model.embed_tokens.weight", "model.norm.weight")
        if dense
        else ("backbone.embeddings.weight", "backbone.norm_f.weight")
    )
    after = {embeddings: weights[embeddings][:, hidden], norm: weights[norm][hidden]}
    if "lm_head.weight" in weights:
        after["lm_head.weight"] = weights["lm_head.weight"][:, hidden]
    slicers = {"M": _mamba, "-": _mlp, "*": _attention, "E": _moe, "T": _layer}
    stem = "model.layers" if dense else "backbone.layers"
    for position, layer in enumerate(plan.keep.layers):
        prefix = f"{stem}.{layer}."
        own = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
        cut = slicers[plan.source.hybrid_override_pattern[layer]](own, plan, layer, hidden)
        after |= {f"{stem}.{position}.{name}": w for name, w in cut.items()}
    return after


def kept(plan: PrunePlan, axis: str, layer: int | None) -> list[int]:
    found = plan.keep.indices.get((axis, layer))
    return list(range(plan.source.sizes[axis])) if found is None else found.tolist()


def _mamba(own: Weights, plan: PrunePlan, layer: int, hidden: list[int]) -> Weights:
    shape = plan.source
    H, P, GN = shape.mamba_num_heads, shape.mamba_head_dim, shape.n_groups * shape.ssm_state_size
    heads, channels = kept(plan, "mamba_num_heads", layer), kept(plan, "mamba_head_dim", layer)
    inner = np.array([head * P + channel for head in heads for channel in channels])
    z, x, B, C, dt = np.split(own["mixer.in_proj.weight"], [H * P, 2 * H * P, 2 * H * P + GN, 2 * H * P + 2 * GN])
    return {
        "norm.weight": own["norm.weight"][hidden],
        "mixer.in_proj.weight": np.concatenate([z[inner], x[inner], B, C, dt[heads]])[:, hidden],
        "mixer.conv1d.weight": np.concatenate([own["mixer.conv1d.weight"][inner], own["mixer.conv1d.weight"][H * P :]]),
        "mixer.conv1d.bias": np.concatenate([own["mixer.conv1d.bias"][inner], own["mixer.conv1d.bias"][H * P :]]),
        "mixer.A_log": own["mixer.A_log"][heads],
        "mixer.D": own["mixer.D"][heads],
        "mixer.dt_bias": own["mixer.dt_bias"][heads],
        "mixer.norm.weight": own["mixer.norm.weight"][inner],
        "mixer.out_proj.weight": own["mixer.out_proj.weight"][hidden][:, inner],
    }


def _mlp(own: Weights, plan: PrunePlan, layer: int, hidden: list[int]) -> Weights:
    neurons = kept(plan, "intermediate_size", layer)
    return {
        "norm.weight": own["norm.weight"][hidden],
        "mixer.up_proj.weight": own["mixer.up_proj.weight"][neurons][:, hidden],
        "mixer.down_proj.weight": own["mixer.down_proj.weight"][hidden][:, neurons],
    }


def _heads(own: Weights, plan: PrunePlan, layer: int, hidden: list[int], prefix: str) -> Weights:
    K = plan.source.head_dim
    query = [head * K + channel for head in kept(plan, "num_attention_heads", layer) for channel in range(K)]
    return {
        f"{prefix}q_proj.weight": own[f"{prefix}q_proj.weight"][query][:, hidden],
        f"{prefix}k_proj.weight": own[f"{prefix}k_proj.weight"][:, hidden],
        f"{prefix}v_proj.weight": own[f"{prefix}v_proj.weight"][:, hidden],
        f"{prefix}o_proj.weight": own[f"{prefix}o_proj.weight"][hidden][:, query],
    }


def _attention(own: Weights, plan: PrunePlan, layer: int, hidden: list[int]) -> Weights:
    return {"norm.weight": own["norm.weight"][hidden], **_heads(own, plan, layer, hidden, "mixer.")}


def _moe(own: Weights, plan: PrunePlan, layer: int, hidden: list[int]) -> Weights:
    experts = kept(plan, "n_routed_experts", layer)
    shared = kept(plan, "moe_shared_expert_intermediate_size", layer)
    after = {
        "norm.weight": own["norm.weight"][hidden],
        "mixer.gate.weight": own["mixer.gate.weight"][experts][:, hidden],
        "mixer.gate.e_score_correction_bias": own["mixer.gate.e_score_correction_bias"][experts],
        "mixer.shared_experts.up_proj.weight": own["mixer.shared_experts.up_proj.weight"][shared][:, hidden],
        "mixer.shared_experts.down_proj.weight": own["mixer.shared_experts.down_proj.weight"][hidden][:, shared],
    }
    read = hidden
    if "mixer.fc1_latent_proj.weight" in own:
        after["mixer.fc1_latent_proj.weight"] = own["mixer.fc1_latent_proj.weight"][:, hidden]
        after["mixer.fc2_latent_proj.weight"] = own["mixer.fc2_latent_proj.weight"][hidden]
        read = list(range(plan.source.moe_latent_size))
    rows = plan.keep.indices.get(("moe_intermediate_size", layer))
    for position, expert in enumerate(experts):
        neurons = list(range(plan.source.moe_intermediate_size)) if rows is None else rows[expert].tolist()
        up, down = (own[f"mixer.experts.{expert}.{side}_proj.weight"] for side in ("up", "down"))
        after[f"mixer.experts.{position}.up_proj.weight"] = up[neurons][:, read]
        after[f"mixer.experts.{position}.down_proj.weight"] = down[read][:, neurons]
    return after


def _layer(own: Weights, plan: PrunePlan, layer: int, hidden: list[int]) -> Weights:
    neurons = kept(plan, "intermediate_size", layer)
    norms = {name: w for name, w in own.items() if name.endswith(("q_norm.weight", "k_norm.weight"))}
    return {
        "input_layernorm.weight": own["input_layernorm.weight"][hidden],
        **_heads(own, plan, layer, hidden, "self_attn."),
        **norms,
        "post_attention_layernorm.weight": own["post_attention_layernorm.weight"][hidden],
        "mlp.gate_proj.weight": own["mlp.gate_proj.weight"][neurons][:, hidden],
        "mlp.up_proj.weight": own["mlp.up_proj.weight"][neurons][:, hidden],
        "mlp.down_proj.weight": own["mlp.down_proj.weight"][hidden][:, neurons],
    }
