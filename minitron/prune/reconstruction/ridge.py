"""Ridge regression around a weight: the closed form by which a pruned projection is repaired."""

# D rows of the weight, C its columns

import logging

import torch

from minitron.errors import MinitronError, NotFiniteError

logger = logging.getLogger(__name__)

# Columns that a factorization takes at a time: at 16,384 columns what it holds beside the matrix is 64 MiB.
PANEL = 512


def refit(
    weight_DC: torch.Tensor, cross_DC: torch.Tensor, gram_CC: torch.Tensor, ridge: float, *, overwrite: bool = False
) -> torch.Tensor:
    """The weight that minimizes the squared residual left by the old one, pulled towards the old one: [D, C] fp32.

    With inputs A and residual R = Y - A W^T it is W' = W + R^T A (A^T A + ridge * mean(diag(A^T A)) * I)^-1, computed
    in fp64 on the CPU. Inputs that are all zero leave the weight as it is.

    Args:
        weight_DC: W.
        cross_DC: R^T A.
        gram_CC: A^T A.
        ridge: Strength of the pull, relative to the mean square of an input; it makes the system regular at any rank.
        overwrite: Whether the moments may be destroyed, where they are fp64 on the CPU: nothing of their size is
            allocated then.

    Raises:
        MinitronError: The ridge is not positive, or a moment is not finite.

    >>> weight, gram = torch.tensor([[1.0, 2.0]]), torch.eye(2)
    >>> refit(weight, torch.tensor([[2.0, 0.0]]), gram, 1.0)
    tensor([[2., 2.]])
    """
    change_DC = solve_ridge(cross_DC, gram_CC, ridge, overwrite=overwrite)
    return change_DC.add_(weight_DC.detach().cpu()).float()


def solve_ridge(
    cross_DC: torch.Tensor, gram_CC: torch.Tensor, ridge: float, *, overwrite: bool = False
) -> torch.Tensor:
    """Cross (gram + ridge * mean(diag(gram)) * I)^-1: [D, C] fp64 on the CPU; zeros where the gram is zero.

    Raises:
        MinitronError: The ridge is not positive, or a moment is not finite.
    """
    if not ridge > 0:
        raise MinitronError(f"ridge must be above 0, got {ridge}")
    found_DC, system_CC = (_as_fp64(x, overwrite) for x in (cross_DC, gram_CC))
    if not (found_DC.sum().isfinite() and system_CC.sum().isfinite()):
        raise NotFiniteError("second moments must be finite, they are not: the model overflows on the calibration text")
    mean = float(system_CC.diagonal().mean())
    if mean == 0:
        return torch.zeros_like(found_DC)
    diagonal_C = system_CC.diagonal().clone()
    system_CC.diagonal().add_(ridge * mean)
    if _factored(system_CC):
        _substitute(system_CC, found_DC)
        return found_DC
    # Products in fp32 can leave eigenvalues just below zero, which a small ridge does not lift: they are roundings.
    logger.info("a gram matrix of %d columns is of low rank; it is solved by its eigenvalues", len(system_CC))
    upper_CC = system_CC.triu(1)  # as it was: a factor is written into the lower half
    values_C, vectors_CC = torch.linalg.eigh(upper_CC + upper_CC.T + diagonal_C.add(ridge * mean).diag())
    change_DC: torch.Tensor = ((found_DC @ vectors_CC) / values_C.clamp(min=ridge * mean)) @ vectors_CC.T
    return change_DC


def _as_fp64(moment: torch.Tensor, overwrite: bool) -> torch.Tensor:
    found = moment.detach().cpu().double()
    shared = found.data_ptr() == moment.data_ptr()
    return found.clone() if shared and not overwrite else found


def _factored(system_CC: torch.Tensor) -> bool:
    """Writes the Cholesky factor L into the lower half of a matrix; False where the matrix is not positive definite."""
    for start in range(0, len(system_CC), PANEL):
        stop = min(start + PANEL, len(system_CC))
        done, own = slice(0, start), slice(start, stop)
        panel = system_CC[start:, own] - system_CC[start:, done] @ system_CC[own, done].T
        corner, failed = torch.linalg.cholesky_ex(panel[: stop - start])
        if int(failed):
            return False
        system_CC[own, own] = corner + system_CC[own, own].triu(1)
        below = torch.linalg.solve_triangular(corner, panel[stop - start :].T, upper=False)
        system_CC[stop:, own] = below.T
    return True


def _substitute(factor_CC: torch.Tensor, found_DC: torch.Tensor) -> None:
    """Replaces B [D, C] by B (L L^T)^-1, in place, with L in the lower half of a matrix."""
    starts = range(0, len(factor_CC), PANEL)
    for start in starts:
        done, own = slice(0, start), slice(start, start + PANEL)
        lacking_DP = found_DC[:, own] - found_DC[:, done] @ factor_CC[own, done].T
        corner = factor_CC[own, own].tril()
        found_DC[:, own] = torch.linalg.solve_triangular(corner, lacking_DP.T, upper=False).T
    for start in reversed(starts):
        own, done = slice(start, start + PANEL), slice(start + PANEL, None)
        lacking_DP = found_DC[:, own] - found_DC[:, done] @ factor_CC[done, own]
        corner = factor_CC[own, own].tril()
        found_DC[:, own] = torch.linalg.solve_triangular(corner.T, lacking_DP.T, upper=True).T
