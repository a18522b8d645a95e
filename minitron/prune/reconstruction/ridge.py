"""Ridge regression around a weight: the closed form by which a pruned projection is repaired."""

# D rows of the weight, C its columns

import logging

import torch

from minitron.errors import MinitronError, NotFiniteError

logger = logging.getLogger(__name__)


def refit(weight_DC: torch.Tensor, cross_DC: torch.Tensor, gram_CC: torch.Tensor, ridge: float) -> torch.Tensor:
    """The weight that minimizes the squared residual left by the old one, pulled towards the old one: [D, C] fp32.

    With inputs A and residual R = Y - A W^T it is W' = W + R^T A (A^T A + ridge * mean(diag(A^T A)) * I)^-1, computed
    in fp64 on the CPU. Inputs that are all zero leave the weight as it is.

    Args:
        weight_DC: W.
        cross_DC: R^T A.
        gram_CC: A^T A.
        ridge: Strength of the pull, relative to the mean square of an input; it makes the system regular at any rank.

    Raises:
        MinitronError: The ridge is not positive, or a moment is not finite.

    >>> weight, gram = torch.tensor([[1.0, 2.0]]), torch.eye(2)
    >>> refit(weight, torch.tensor([[2.0, 0.0]]), gram, 1.0)
    tensor([[2., 2.]])
    """
    return (weight_DC.detach().cpu().double() + solve_ridge(cross_DC, gram_CC, ridge)).float()


def solve_ridge(cross_DC: torch.Tensor, gram_CC: torch.Tensor, ridge: float) -> torch.Tensor:
    """Cross (gram + ridge * mean(diag(gram)) * I)^-1: [D, C] fp64 on the CPU; zeros where the gram is zero.

    Raises:
        MinitronError: The ridge is not positive, or a moment is not finite.
    """
    if not ridge > 0:
        raise MinitronError(f"ridge must be above 0, got {ridge}")
    cross_DC, system_CC = cross_DC.detach().cpu().double(), gram_CC.detach().cpu().double().clone()
    if not (torch.isfinite(cross_DC).all() and torch.isfinite(system_CC).all()):
        raise NotFiniteError("second moments must be finite, they are not: the model overflows on the calibration text")
    mean = float(system_CC.diagonal().mean())
    if mean == 0:
        return torch.zeros_like(cross_DC)
    system_CC.diagonal().add_(ridge * mean)
    factor_CC, failed = torch.linalg.cholesky_ex(system_CC)
    if not int(failed):
        solved_CD: torch.Tensor = torch.cholesky_solve(cross_DC.T, factor_CC)
        return solved_CD.T.contiguous()
    # Products in fp32 can leave eigenvalues just below zero, which a small ridge does not lift: they are roundings.
    logger.info("a gram matrix of %d columns is of low rank; it is solved by its eigenvalues", len(system_CC))
    values_C, vectors_CC = torch.linalg.eigh(system_CC)
    change_DC: torch.Tensor = ((cross_DC @ vectors_CC) / values_C.clamp(min=ridge * mean)) @ vectors_CC.T
    return change_DC
