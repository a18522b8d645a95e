"""Layers of two parts, a mixer and an MLP or experts, cut by hand."""

# E experts, F neurons, D hidden

import numpy as np

from minitron.prune.plan import PrunePlan
from tests.support.hand_blocks import Array, Weights, attention, delta_net, dense_mlp, kept, mamba, neurons_of


def two_parts(own: Weights, plan: PrunePlan, layer: int, hidden: list[int]) -> Weights:
    """A layer of any family that has such."""
    norms = [name for name in own if name.endswith("layernorm.weight")]
    after = {name: own[name][hidden] for name in norms}
    match plan.source.hybrid_override_pattern[layer]:
        case "H":
            after |= mamba(own, plan, layer, hidden, "mamba.")
        case "G":
            after |= delta_net(own, plan, layer, hidden)
        case _:
            is_gated = plan.source.model_type in ("qwen3_5_text", "qwen3_5_moe_text")
            after |= attention(own, plan, layer, hidden, "self_attn.", is_gated=is_gated)
    match plan.source.model_type, plan.source.hybrid_override_pattern[layer]:
        case ("granitemoehybrid", _):
            return after | _granite(own, plan, layer, hidden)
        case ("bamba", _):
            return after | dense_mlp(own, kept(plan, "intermediate_size", layer), hidden, "feed_forward.")
        case ("qwen3_moe", "X") | ("qwen3_5_moe_text", _):
            return after | _experts(own, plan, layer, hidden)
    return after | dense_mlp(own, kept(plan, "intermediate_size", layer), hidden, "mlp.")


def _experts(own: Weights, plan: PrunePlan, layer: int, hidden: list[int]) -> Weights:
    experts = kept(plan, "n_routed_experts", layer)
    after = {"mlp.gate.weight": own["mlp.gate.weight"][experts][:, hidden]}
    if "mlp.shared_expert_gate.weight" in own:
        shared = kept(plan, "moe_shared_expert_intermediate_size", layer)
        after |= dense_mlp(own, shared, hidden, "mlp.shared_expert.")
        after["mlp.shared_expert_gate.weight"] = own["mlp.shared_expert_gate.weight"][:, hidden]
    for position, expert in enumerate(experts):
        cut = dense_mlp(own, neurons_of(plan, layer, expert), hidden, f"mlp.experts.{expert}.")
        after |= {name.replace(f".{expert}.", f".{position}."): w for name, w in cut.items()}
    return after


def _granite(own: Weights, plan: PrunePlan, layer: int, hidden: list[int]) -> Weights:
    shared = kept(plan, "moe_shared_expert_intermediate_size", layer)
    after = {
        "shared_mlp.input_linear.weight": _gate_and_up(own["shared_mlp.input_linear.weight"], shared, hidden),
        "shared_mlp.output_linear.weight": own["shared_mlp.output_linear.weight"][hidden][:, shared],
    }
    if "block_sparse_moe.router.layer.weight" not in own:
        return after
    experts = kept(plan, "n_routed_experts", layer)
    read_EFD, written_EDF = (own[f"block_sparse_moe.{side}_linear.weight"] for side in ("input", "output"))
    neurons = {expert: neurons_of(plan, layer, expert) for expert in experts}
    return after | {
        "block_sparse_moe.router.layer.weight": own["block_sparse_moe.router.layer.weight"][experts][:, hidden],
        "block_sparse_moe.input_linear.weight": np.stack(
            [_gate_and_up(read_EFD[expert], neurons[expert], hidden) for expert in experts]
        ),
        "block_sparse_moe.output_linear.weight": np.stack(
            [written_EDF[expert][hidden][:, neurons[expert]] for expert in experts]
        ),
    }


def _gate_and_up(fused: Array, neurons: list[int], hidden: list[int]) -> Array:
    gate_FD, up_FD = np.split(fused, 2)
    return np.concatenate([gate_FD[neurons], up_FD[neurons]])[:, hidden]
