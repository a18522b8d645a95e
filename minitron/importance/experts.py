"""Routed experts and their neurons: how much each adds to what its block adds to the residual stream."""

# B samples, T tokens, N tokens, K experts of a token, E experts, F neurons of an expert, C channels that experts read

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from minitron.distributed import Ranks
from minitron.importance.accumulators import State
from minitron.models.shape import HybridShape
from minitron.runtime.stack import Block

Key = tuple[str, int]


class ExpertStatistics:
    """What every routed expert did with the tokens that its router sent to it.

    An expert's score is the mean over its tokens of router weight times the norm of its output (REAP, arXiv
    2510.13999); one that no token went to has 0. A neuron's score is the mean over all tokens of (router weight times
    activation)^2 times the squared norm of the column that reads it, the mean square error that zeroing it alone makes.

    Each expert is computed once more for its tokens, so listening about doubles the experts' part of a pass.
    """

    def __init__(self, shape: HybridShape) -> None:
        self._shape = shape
        self._sums: dict[int, State] = {}
        self.scores: dict[Key, torch.Tensor] = {}

    @contextmanager
    def listening(self, blocks: Iterable[Block], mask_BT: torch.Tensor | None) -> Iterator[None]:
        """Hears one batch go through some blocks."""
        handles = []
        for layer, block in blocks:
            path = self._path(layer)
            if path is not None:
                hook = self._hook(layer, None if mask_BT is None else mask_BT.flatten())
                handles.append(block.get_submodule(path).register_forward_pre_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def finish(self, blocks: Iterable[Block], ranks: Ranks) -> None:
        """Turns the sums of some blocks, taken together over all ranks, into scores."""
        for layer, block in blocks:
            path = self._path(layer)
            if path is None:
                continue
            total: State = {}
            for state in ranks.gather(self._sums.get(layer, {})):
                total = {name: total[name] + value if total else value for name, value in state.items()}
            experts: Any = block.get_submodule(path)
            reading_EF = experts.down_proj.detach().double().square().sum(dim=1).cpu()
            self.scores["n_routed_experts", layer] = (total["norm"] / total["tokens"].clamp(min=1)).cpu()
            self.scores["moe_intermediate_size", layer] = (total["energy"] / total["all"]).cpu() * reading_EF

    def forget(self, layer: int) -> None:
        """Gives up the sums of a finished block and keeps its scores."""
        self._sums.pop(layer, None)

    def state(self) -> State:
        """Everything gathered so far."""
        state = {
            f"experts/score/{axis}/{layer}": score
            for (axis, layer), score in self.scores.items()
            if layer not in self._sums
        }
        for layer, sums in self._sums.items():
            state |= {f"experts/heard/{layer}/{name}": value for name, value in sums.items()}
        return state

    def restore(self, state: Mapping[str, torch.Tensor], *, before: int, device: torch.device) -> None:
        """Goes on from a saved state; scores are taken of the layers below `before`."""
        for name, value in state.items():
            match name.split("/"):
                case ["experts", "score", axis, layer] if int(layer) < before:
                    self.scores[axis, int(layer)] = value
                case ["experts", "heard", layer, part]:
                    self._sums.setdefault(int(layer), {})[part] = value.to(device)

    def _path(self, layer: int) -> str | None:
        return self._shape.family.experts.get(self._shape.hybrid_override_pattern[layer])

    def _hook(self, layer: int, mask_N: torch.Tensor | None) -> Any:
        def hear(module: nn.Module, args: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
            found = expert_sums(module, *args, mask_N=mask_N)
            before = self._sums.get(layer)
            self._sums[layer] = found if before is None else {name: before[name] + found[name] for name in found}

        return hear


@torch.no_grad()
def expert_sums(
    experts: Any,
    x_NC: torch.Tensor,
    chosen_NK: torch.Tensor,
    weights_NK: torch.Tensor,
    *,
    mask_N: torch.Tensor | None = None,
) -> State:
    """Sums over the counted tokens, in fp64: `tokens` and `norm` [E], `energy` [E, F], and the number of `all` tokens.

    Args:
        experts: The module of stacked experts, with `up_proj` [E, F, C], `down_proj` [E, C, F] and `act_fn`.
        x_NC: What it reads.
        chosen_NK: The experts of each token.
        weights_NK: Their router weights.
        mask_N: Which tokens count; all when None.
    """
    up_EFC, down_ECF = experts.up_proj, experts.down_proj
    sums: State = {
        "tokens": torch.zeros(len(up_EFC), dtype=torch.float64, device=x_NC.device),
        "norm": torch.zeros(len(up_EFC), dtype=torch.float64, device=x_NC.device),
        "energy": torch.zeros(up_EFC.shape[:2], dtype=torch.float64, device=x_NC.device),
        "all": torch.tensor(float(len(x_NC) if mask_N is None else mask_N.sum()), dtype=torch.float64),
    }
    for expert in torch.unique(chosen_NK).tolist():
        counted_NK = chosen_NK == expert if mask_N is None else (chosen_NK == expert) & mask_N[:, None]
        token, place = torch.where(counted_NK)
        weight_N1 = weights_NK[token, place, None].float()
        act_NF = experts.act_fn(x_NC[token] @ up_EFC[expert].T)
        out_NC = act_NF @ down_ECF[expert].T
        sums["tokens"][expert] = len(token)
        sums["norm"][expert] = (weight_N1 * out_NC.float().norm(dim=1, keepdim=True)).sum(dtype=torch.float64)
        sums["energy"][expert] = (weight_N1 * act_NF.float()).square().sum(dim=0).double()
    return sums
