"""Losses on hidden states behind mapped blocks, for deep cuts."""

# N tokens, D hidden channels that both models have

from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional as F


class HiddenLoss(Protocol):
    """A distance between the student's and the teacher's hidden states."""

    def __call__(self, student_ND: torch.Tensor, teacher_ND: torch.Tensor, mask_N: torch.Tensor) -> torch.Tensor:
        """Sum over the counted tokens, a scalar in fp32 (fp64 for fp64), differentiable in the student's states."""


@dataclass(frozen=True, slots=True)
class CosineLoss:
    """1 - cos of the angle between them. Source: arXiv 1910.01108."""

    def __call__(self, student_ND: torch.Tensor, teacher_ND: torch.Tensor, mask_N: torch.Tensor) -> torch.Tensor:
        """Sum over the counted tokens."""
        with torch.autocast(student_ND.device.type, enabled=False):
            angle_N = F.cosine_similarity(_wide(student_ND), _wide(teacher_ND), dim=-1)
            return ((1 - angle_N) * mask_N).sum()


@dataclass(frozen=True, slots=True)
class MSELoss:
    """Mean over the channels of squared differences. Source: arXiv 2407.14679, section 3.2 (intermediate states)."""

    def __call__(self, student_ND: torch.Tensor, teacher_ND: torch.Tensor, mask_N: torch.Tensor) -> torch.Tensor:
        """Sum over the counted tokens."""
        with torch.autocast(student_ND.device.type, enabled=False):
            square_N = (_wide(student_ND) - _wide(teacher_ND)).square().mean(-1)
            return (square_N * mask_N).sum()


HIDDEN_LOSSES: dict[str, type[CosineLoss] | type[MSELoss]] = {"cosine": CosineLoss, "mse": MSELoss}


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
