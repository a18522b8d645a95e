"""Routed experts and their neurons: how much each adds to what its block adds to the residual stream."""

# B samples, T tokens, N tokens, K experts of a token, E experts, F neurons of an expert, C channels that experts read

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from minitron.importance.block_statistics import Probe
from minitron.models.shape import HybridShape
from minitron.runtime.hooks import Accumulator, Activations, HookSite, State, merge_sums


class ExpertStatistic:
    """What every routed expert did with the tokens that its router sent to it.

    An expert's score is the mean over its tokens of router weight times the norm of its output (REAP, arXiv
    2510.13999); one that no token went to has 0. A neuron's score is the mean over all tokens of (router weight times
    activation)^2 times the squared norm of the column that reads it, the mean square error that zeroing it alone makes.

    Each expert is computed once more for its tokens, so collecting about doubles the experts' part of a pass.
    """

    def __init__(self, shape: HybridShape) -> None:
        self._shape = shape

    def probes(self, layer: int, block: nn.Module) -> Mapping[str, Probe]:
        """What a block's stack of experts is given, where it has one."""
        path = self._path(layer)
        if path is None:
            return {}
        site = HookSite(module=path, side="input")
        return {"experts": Probe(site=site, accumulator=partial(ExpertSums, block.get_submodule(path)))}

    def scores(self, layer: int, block: nn.Module, collected: Mapping[str, Accumulator]) -> Mapping[str, torch.Tensor]:
        """Scores [E] of the block's experts, and [E, F] of their neurons."""
        total = collected["experts"].state
        path = self._path(layer)
        down_ECF = block.get_parameter(f"{path}.down_proj")
        reading_EF = down_ECF.detach().double().square().sum(dim=1).cpu()
        return {
            "n_routed_experts": (total["norm"] / total["tokens"].clamp(min=1)).cpu(),
            "moe_intermediate_size": (total["energy"] / total["all"]).cpu() * reading_EF,
        }

    def _path(self, layer: int) -> str | None:
        if not self._shape.n_routed_experts:
            return None
        return self._shape.family.experts.get(self._shape.hybrid_override_pattern[layer])


class ExpertSums:
    """Sums over counted tokens, in fp64: `tokens` and `norm` [E], `energy` [E, F], and the number of `all` tokens.

    Args:
        experts: The module of stacked experts, with `down_proj` [E, C, F], `act_fn`, and `up_proj` [E, F, C] or, where
            experts are gated, `gate_up_proj` [E, 2 F, C], the gate's rows first.
    """

    def __init__(self, experts: nn.Module) -> None:
        self._experts = experts
        self.state: State = {}

    def update(self, activations: Activations, mask_BT: torch.Tensor | None) -> None:
        """Takes in a batch: what experts read [N, C], the experts of each token [N, K], and their router weights."""
        x_NC, chosen_NK, weights_NK = activations
        mask_N = None if mask_BT is None else mask_BT.flatten()
        self.merge(self._sums(x_NC.detach(), chosen_NK, weights_NK.detach(), mask_N))

    def merge(self, other: Mapping[str, torch.Tensor]) -> None:
        """Takes in another state."""
        self.state = merge_sums(self.state, other)

    @torch.no_grad()
    def _sums(
        self, x_NC: torch.Tensor, chosen_NK: torch.Tensor, weights_NK: torch.Tensor, mask_N: torch.Tensor | None
    ) -> State:
        down_ECF = self._experts.get_parameter("down_proj")
        experts, _, neurons = down_ECF.shape
        sums: State = {
            "tokens": torch.zeros(experts, dtype=torch.float64, device=x_NC.device),
            "norm": torch.zeros(experts, dtype=torch.float64, device=x_NC.device),
            "energy": torch.zeros((experts, neurons), dtype=torch.float64, device=x_NC.device),
            "all": torch.tensor(float(len(x_NC) if mask_N is None else mask_N.sum()), dtype=torch.float64),
        }
        for expert in torch.unique(chosen_NK).tolist():
            counted_NK = chosen_NK == expert if mask_N is None else (chosen_NK == expert) & mask_N[:, None]
            token, place = torch.where(counted_NK)
            weight_N1 = weights_NK[token, place, None].float()
            act_NF = self._activations(x_NC[token], expert)
            out_NC = act_NF @ down_ECF[expert].T
            sums["tokens"][expert] = len(token)
            sums["norm"][expert] = (weight_N1 * out_NC.float().norm(dim=1, keepdim=True)).sum(dtype=torch.float64)
            sums["energy"][expert] = (weight_N1 * act_NF.float()).square().sum(dim=0).double()
        return sums

    def _activations(self, x_NC: torch.Tensor, expert: int) -> torch.Tensor:
        """[N, F] what one expert's down projection reads."""
        activation, weights = self._experts.get_submodule("act_fn"), dict(self._experts.named_parameters())
        if "gate_up_proj" in weights:
            gate_NF, up_NF = (x_NC @ weights["gate_up_proj"][expert].T).chunk(2, dim=-1)
            return torch.as_tensor(activation(gate_NF) * up_NF)
        return torch.as_tensor(activation(x_NC @ weights["up_proj"][expert].T))
