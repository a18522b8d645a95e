"""What a divergence between the teacher's and the student's distribution is."""

# C tokens of a chunk, X outcomes: the vocabulary, a shard of it, or the teacher's best and one bucket for the rest

from collections.abc import Callable
from typing import Protocol

import torch

# [C, X] -> [C, 1] sums over all outcomes, those of other shards included.
RowSum = Callable[[torch.Tensor], torch.Tensor]


def sum_rows(x_CX: torch.Tensor) -> torch.Tensor:
    """[C, 1] sums over outcomes that are all here."""
    return x_CX.sum(dim=-1, keepdim=True)


class Divergence(Protocol):
    """A divergence of the student's distribution q from the teacher's p, over any set of outcomes."""

    def losses(
        self, log_p_CX: torch.Tensor, log_q_CX: torch.Tensor, row_sum: RowSum
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses [C] in nats and their gradient [C, X] by the logits whose log-softmax log q is.

        Both inputs may be overwritten.

        Args:
            log_p_CX: Teacher's log-probabilities.
            log_q_CX: Student's log-probabilities.
            row_sum: Sums over the outcomes.
        """
