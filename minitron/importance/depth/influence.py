"""Block influence: one minus the cosine between the residual stream before a block and after it."""

# B samples, T tokens, D hidden, L blocks

from collections.abc import Mapping

import torch
from torch import nn

from minitron.importance.block_statistics import Key, Probe
from minitron.runtime.hooks import Accumulator, Activations, HookSite, State, merge_sums

INFLUENCE = "depth"


class BlockInfluence:
    """Mean over all counted tokens of 1 - cos(block input, block output), larger where a block changes its input more.

    Source: arXiv 2403.03853 (block influence); the one-shot depth score of arXiv 2407.14679.
    """

    def probes(self, layer: int, block: nn.Module) -> Mapping[str, Probe]:
        """The block itself, its input and output."""
        return {"influence": Probe(site=HookSite(side="both"), accumulator=InfluenceSum)}

    def scores(self, layer: int, block: nn.Module, collected: Mapping[str, Accumulator]) -> Mapping[str, torch.Tensor]:
        """One number for the block, as `depth`."""
        state = collected["influence"].state
        return {INFLUENCE: state["sum"] / state["tokens"].clamp(min=1)}


def influence_scores(scores: Mapping[Key, torch.Tensor], num_hidden_layers: int) -> torch.Tensor:
    """[L] block influence, out of all finished scores."""
    return torch.stack([scores[INFLUENCE, layer] for layer in range(num_hidden_layers)])


class InfluenceSum:
    """The sum of 1 - cos over counted tokens, and their number, in fp64 on the CPU."""

    def __init__(self) -> None:
        self.state: State = {}

    def update(self, activations: Activations, mask_BT: torch.Tensor | None) -> None:
        """Takes in a batch."""
        before_BTD, after_BTD = activations
        change_BT = one_minus_cosine(before_BTD, after_BTD)
        if mask_BT is not None:
            change_BT = change_BT.masked_fill(~mask_BT, 0)
        tokens = change_BT.numel() if mask_BT is None else int(mask_BT.sum())
        self.merge(
            {
                "sum": torch.tensor(float(change_BT.sum(dtype=torch.float64)), dtype=torch.float64),
                "tokens": torch.tensor(float(tokens), dtype=torch.float64),
            }
        )

    def merge(self, other: Mapping[str, torch.Tensor]) -> None:
        """Takes in another state."""
        self.state = merge_sums(self.state, other)


def one_minus_cosine(before_BTD: torch.Tensor, after_BTD: torch.Tensor) -> torch.Tensor:
    """[B, T] half the squared distance of the unit vectors, which is 1 - cos without its loss of digits near 0."""
    unit_BTD = torch.nn.functional.normalize(after_BTD.float(), dim=-1)
    unit_BTD -= torch.nn.functional.normalize(before_BTD.float(), dim=-1)
    distance_BT: torch.Tensor = torch.linalg.vector_norm(unit_BTD, dim=-1)
    return distance_BT.square() / 2
