"""Pruned weights written out by hand, tensor by tensor: what the declared axes and their arithmetic must agree with.

Nothing is taken from the declarations of the families but the letters of their blocks and the names of their sizes.
"""

# D hidden

from typing import Any

from minitron.prune.plan import PrunePlan
from tests.support.hand_blocks import Weights, attention, dense_mlp, kept, mamba, relu_experts
from tests.support.hand_layers import two_parts

__all__ = ["kept", "sliced_by_hand"]


def sliced_by_hand(weights: Weights, plan: PrunePlan) -> Weights:
    """The tensors of the pruned model by their names in files."""
    hidden, is_hybrid = kept(plan, "hidden_size", None), plan.source.model_type == "nemotron_h"
    stem = "backbone" if is_hybrid else "model"
    after = _outside(weights, plan, hidden)
    slicers = {"M": _mamba, "-": _mlp, "*": _attention, "E": _moe}
    for position, layer in enumerate(plan.keep.layers):
        prefix = f"{stem}.layers.{layer}."
        own = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
        cut = slicers.get(plan.source.hybrid_override_pattern[layer], two_parts)(own, plan, layer, hidden)
        after |= {f"{stem}.layers.{position}.{name}": w for name, w in cut.items()}
    return after


def _outside(weights: Weights, plan: PrunePlan, hidden: list[int]) -> Weights:
    names = {"nemotron_h": ("backbone.embeddings.weight", "backbone.norm_f.weight")}
    names["bamba"] = ("model.embed_tokens.weight", "model.final_layernorm.weight")
    embeddings, norm = names.get(plan.source.model_type, ("model.embed_tokens.weight", "model.norm.weight"))
    after = {embeddings: weights[embeddings][:, hidden], norm: weights[norm][hidden]}
    if "lm_head.weight" in weights:
        after["lm_head.weight"] = weights["lm_head.weight"][:, hidden]
    if plan.source.model_type == "gemma3_text" and len(hidden) < plan.source.hidden_size:
        # The model multiplies embeddings by sqrt(hidden_size): they keep what they had. Where logits are products with
        # them too, what the final norm multiplies by, 1 + its weight, takes that back.
        share = len(hidden) / plan.source.hidden_size
        after[embeddings] = after[embeddings] * share**-0.5
        if "lm_head.weight" not in weights:
            after[norm] = (after[norm] + 1) * share**0.5 - 1
    return after


def _normed(own: Weights, hidden: list[int]) -> dict[str, Any]:
    return {"norm.weight": own["norm.weight"][hidden]}


def _mamba(own: Weights, plan: PrunePlan, layer: int, hidden: list[int]) -> Weights:
    return _normed(own, hidden) | mamba(own, plan, layer, hidden, "mixer.")


def _mlp(own: Weights, plan: PrunePlan, layer: int, hidden: list[int]) -> Weights:
    neurons = kept(plan, "intermediate_size", layer)
    return _normed(own, hidden) | dense_mlp(own, neurons, hidden, "mixer.")


def _attention(own: Weights, plan: PrunePlan, layer: int, hidden: list[int]) -> Weights:
    return _normed(own, hidden) | attention(own, plan, layer, hidden, "mixer.")


def _moe(own: Weights, plan: PrunePlan, layer: int, hidden: list[int]) -> Weights:
    return _normed(own, hidden) | relu_experts(own, plan, layer, hidden)
