"""Experts, a token and an expert at a time.

Routing by sigmoids with node-limited groups: arXiv 2412.19437, section 2.1.2. By a softmax over all experts: arXiv
2101.03961, the chosen ones' weights made to sum to 1 or not. By a softmax over the chosen ones: arXiv 2401.04088.
"""

# T tokens, D hidden, F neurons, E experts

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tests.support.reference.arithmetic import Array, Weights, gated, sigmoid, softmax

# Expert -> its weight for one token.
Routed = dict[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """How a token finds its experts.

    Attributes:
        how: `groups` by sigmoids in groups, `all` by a softmax over all experts, `chosen` by one over the chosen.
        top_k: Experts of a token.
        groups: Groups of experts.
        open_groups: Groups that a token may go to.
        scaling: Factor on the weights.
        is_normalized: Whether weights of a softmax over all experts are made to sum to 1.
    """

    how: Literal["groups", "all", "chosen"]
    top_k: int
    groups: int = 1
    open_groups: int = 1
    scaling: float = 1.0
    is_normalized: bool = True

    def __call__(self, x_D: Array, weight_ED: Array, *, correction_E: Any = 0.0, barred: list[int]) -> Routed:
        """The experts of a token with these channels; never those that are barred."""
        logit_E = weight_ED @ x_D
        logit_E[barred] = -np.inf
        if self.how == "groups":
            return self._in_groups(sigmoid(logit_E), sigmoid(logit_E) + correction_E, barred)
        chosen = np.argsort(logit_E)[-self.top_k :]
        if self.how == "chosen":
            weight_E = dict(zip(chosen.tolist(), softmax(logit_E[chosen]).tolist(), strict=True))
        else:
            share_E = softmax(logit_E)
            whole = share_E[chosen].sum() if self.is_normalized else 1.0
            weight_E = {int(e): float(share_E[e] / whole) for e in chosen}
        return weight_E

    def _in_groups(self, affinity_E: Array, choice_E: Array, barred: list[int]) -> Routed:
        choice_E[barred] = -np.inf
        groups = np.split(np.arange(len(choice_E)), self.groups)
        best_two = [np.sort(choice_E[group])[-2:].sum() for group in groups]
        allowed = np.concatenate([groups[group] for group in np.argsort(best_two)[-self.open_groups :]])
        chosen = allowed[np.argsort(choice_E[allowed])[-self.top_k :]]
        return {int(e): float(self.scaling * affinity_E[e] / affinity_E[chosen].sum()) for e in chosen}


def expert_of(own: Weights, number: int) -> tuple[Array, Array, Array]:
    """[F, D] gate, [F, D] up and [D, F] down of one gated expert, from files that keep them apart or in stacks."""
    if "block_sparse_moe.input_linear.weight" in own:
        gate_FD, up_FD = np.split(own["block_sparse_moe.input_linear.weight"][number], 2)
        return gate_FD, up_FD, own["block_sparse_moe.output_linear.weight"][number]
    gate_FD, up_FD, down_DF = (own[f"mlp.experts.{number}.{side}_proj.weight"] for side in ("gate", "up", "down"))
    return gate_FD, up_FD, down_DF


def routed(x_TD: Array, own: Weights, routes: list[Routed]) -> Array:
    """[T, D] of gated experts."""
    out_TD = np.zeros_like(x_TD)
    for t, route in enumerate(routes):
        for number, weight in route.items():
            out_TD[t] += weight * gated(x_TD[t], *expert_of(own, number))
    return out_TD
