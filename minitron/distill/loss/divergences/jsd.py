"""Generalized Jensen-Shannon divergence."""

# C tokens of a chunk, X outcomes

import math
from dataclasses import dataclass

import torch

from minitron.distill.loss.divergences.divergence import sum_rows
from minitron.errors import MinitronError


@dataclass(frozen=True, slots=True, kw_only=True)
class JSD:
    """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q. Source: arXiv 2306.13649, equation 1.

    Attributes:
        beta: Share of the teacher in the mixture, between 0 and 1 and neither of them.
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.beta < 1:
            raise MinitronError(
                f"beta must lie between 0 and 1, got {self.beta}; forward and reverse KL are its limits"
            )

    def losses(self, log_p_CX: torch.Tensor, log_q_CX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses [C] and their gradient (1 - beta) q (log q/m - KL(q || m))."""
        beta, student_weight = self.beta, 1 - self.beta
        log_m_CX = torch.logaddexp(log_p_CX + math.log(beta), log_q_CX + math.log(student_weight))
        from_p_CX, from_q_CX = log_p_CX - log_m_CX, log_q_CX - log_m_CX
        p_CX, q_CX, m_CX = log_p_CX.exp_(), log_q_CX.exp_(), log_m_CX.exp_()
        # Sums of m - p and m - q are 0 and take away the rounding of the normalizers.
        loss_p_C1 = sum_rows(from_p_CX.mul_(p_CX).add_(m_CX).sub_(p_CX))
        loss_q_C1 = sum_rows(from_q_CX * q_CX + (m_CX - q_CX))
        grad_CX = from_q_CX.sub_(loss_q_C1).mul_(q_CX).mul_(student_weight)
        return (beta * loss_p_C1 + student_weight * loss_q_C1).squeeze(-1), grad_CX
