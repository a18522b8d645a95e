"""Second moments of targets and inputs over calibration tokens."""

# B samples, T tokens, N counted tokens, D targets, C inputs

from collections.abc import Mapping

import torch

from minitron.distributed import Ranks
from minitron.runtime.hooks import Activations, State, counted_tokens

# Rows that are added at once: torch makes an fp64 copy of what is added.
ROWS = 1024


class Moments:
    """Running sums R^T A [D, C] and A^T A [C, C] over counted tokens: a batch in fp32, the totals in fp64.

    A batch's sum has a relative error of some 1e-7 times the root of its tokens, which the fp64 total does not add to.
    """

    def __init__(self) -> None:
        self.state: State = {}

    @property
    def cross(self) -> torch.Tensor:
        """R^T A [D, C], fp64."""
        return self.state["cross"]

    @property
    def gram(self) -> torch.Tensor:
        """A^T A [C, C], fp64."""
        return self.state["gram"]

    def update(self, activations: Activations, mask_BT: torch.Tensor | None) -> None:
        """Takes in a batch of targets [B, T, D] and inputs [B, T, C]."""
        target_ND, input_NC = (counted_tokens(x.float(), mask_BT) for x in activations)
        self.merge({"cross": target_ND.T @ input_NC, "gram": input_NC.T @ input_NC})

    def merge(self, other: Mapping[str, torch.Tensor]) -> None:
        """Adds another state in place, some rows at a time, since a gram matrix in fp64 may take gigabytes."""
        if self.state:
            for name, total in self.state.items():
                for rows, added in zip(torch.split(total, ROWS), torch.split(other[name], ROWS), strict=True):
                    rows += added
        else:
            self.state = {name: value.double() for name, value in other.items()}

    def sum_over(self, ranks: Ranks) -> None:
        """Adds the states of all processes, in place and some rows at a time; a process may have met no token.

        The first process must have met one, as the others learn from it what they are to add to.
        """
        shapes = ranks.broadcast({name: tuple(total.shape) for name, total in self.state.items()})
        for name, shape in shapes.items():
            total = self.state.setdefault(name, torch.zeros(shape, dtype=torch.float64, device=ranks.device))
            if ranks.world_size > 1:
                for rows in torch.split(total, ROWS):
                    rows.copy_(ranks.sum(rows))
