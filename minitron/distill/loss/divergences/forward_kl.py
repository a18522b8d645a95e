"""Forward KL, KL(p || q): the published objective."""

# C tokens of a chunk, X outcomes

from dataclasses import dataclass

import torch

from minitron.distill.loss.divergences.divergence import sum_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardKL:
    """KL(p || q): the student covers all that the teacher does. Source: arXiv 2408.11796 (logits only)."""

    def losses(self, log_p_CX: torch.Tensor, log_q_CX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses [C] and their gradient q - p."""
        difference_CX = log_p_CX - log_q_CX
        p_CX = log_p_CX.exp_()
        grad_CX = log_q_CX.exp_().sub_(p_CX)
        # The sum of q - p is 0, and adding it as computed takes away what rounding of the normalizers leaves in the
        # first term: the loss stays exact to rounding where p and q are close.
        loss_C1 = sum_rows(difference_CX.mul_(p_CX).add_(grad_CX))
        return loss_C1.squeeze(-1), grad_CX
