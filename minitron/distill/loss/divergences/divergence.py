"""Interface of a divergence of the student's distribution from the teacher's."""

# C tokens of a chunk, X outcomes: the vocabulary, or the teacher's most likely tokens and one outcome for the tail

from typing import Protocol

import torch


def sum_rows(x_CX: torch.Tensor) -> torch.Tensor:
    """[C, 1] sums over the outcomes."""
    return x_CX.sum(dim=-1, keepdim=True)


class Divergence(Protocol):
    """A divergence of the student's distribution q from the teacher's p, over any set of outcomes."""

    def losses(self, log_p_CX: torch.Tensor, log_q_CX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses [C] in nats and their gradient [C, X] by the logits whose log-softmax log q is.

        Both inputs may be overwritten.

        Args:
            log_p_CX: Teacher's log-probabilities.
            log_q_CX: Student's log-probabilities.
        """
