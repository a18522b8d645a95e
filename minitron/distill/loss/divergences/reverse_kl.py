"""Reverse KL, KL(q || p)."""

# C tokens of a chunk, X outcomes

from dataclasses import dataclass

import torch

from minitron.distill.loss.divergences.divergence import sum_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ReverseKL:
    """KL(q || p): the student keeps to what the teacher thinks likely. Source: arXiv 2306.08543, equation 2."""

    def losses(self, log_p_CX: torch.Tensor, log_q_CX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses [C] and their gradient q (log q/p - loss)."""
        difference_CX = log_q_CX - log_p_CX
        q_CX, p_CX = log_q_CX.exp_(), log_p_CX.exp_()
        # As in the forward KL, the sum of p - q takes away the rounding of the normalizers.
        loss_C1 = sum_rows(difference_CX * q_CX + (p_CX - q_CX))
        grad_CX = difference_CX.sub_(loss_C1).mul_(q_CX)
        return loss_C1.squeeze(-1), grad_CX
