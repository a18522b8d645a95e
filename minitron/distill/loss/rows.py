"""Elementwise part of the loss: logits in, losses out, gradients in place of the student's logits.

On CUDA one kernel does it for whole distributions (`fused.py`). Elsewhere rows are taken a few at a time, so that all
passes over them but the first stay in the cache.
"""

# C tokens of a chunk, V vocabulary, K tokens kept of the teacher, M drawn from the others, R rows of a tile

import math
from collections.abc import Iterator

import torch

from minitron.distill.loss.objective import DrawnTokens, Objective, TopTargets
from minitron.units import MIB

# What a tile of one tensor takes; the fastest of 0.5 to 32 MiB where a core's second-level cache has 1 MiB.
TILE_BYTES = MIB


def row_losses_(
    student_CV: torch.Tensor,
    teacher_CV: torch.Tensor | None,
    objective: Objective,
    labels_C: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Divergences [C], times T^2, and cross-entropies [C] of whole distributions.

    Args:
        student_CV: Student's wide logits; overwritten by the gradient of divergence + factor * cross-entropy.
        teacher_CV: Teacher's wide logits, which may be overwritten; None where the objective has no divergence.
        objective: What is minimized.
        labels_C: Next tokens; None where the objective has no cross-entropy.
    """
    if student_CV.device.type == "cuda" and student_CV.dtype == torch.float32:
        from minitron.distill.loss.fused import fused_rows_, has_kernel  # triton comes with torch for CUDA alone

        if has_kernel(objective):
            return fused_rows_(student_CV, teacher_CV, objective, labels_C)
    divergence_C, entropy_C = student_CV.new_zeros(len(student_CV)), student_CV.new_zeros(len(student_CV))
    for rows in _tiles(student_CV):
        student_RV = student_CV[rows]
        grad_RV, entropy_C[rows] = _cross_entropy(student_RV, labels_C, rows, objective)
        if objective.divergence is None or teacher_CV is None:
            assert grad_RV is not None
            student_RV.copy_(grad_RV)
            continue
        log_q_RV = torch.log_softmax(_cooled(student_RV, objective.temperature), dim=-1)
        log_p_RV = torch.log_softmax(_cooled(teacher_CV[rows], objective.temperature), dim=-1)
        divergence_C[rows], by_logits_RV = objective.divergence.losses(log_p_RV, log_q_RV)
        _write_gradient(student_RV, by_logits_RV, grad_RV, objective)
    return divergence_C.mul_(objective.temperature**2), entropy_C


def top_row_losses_(
    student_CV: torch.Tensor, targets: TopTargets, objective: Objective, labels_C: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for top-k targets: K + 1 outcomes, the last one all other tokens together.

    The divergence's gradient is that over K + 1 outcomes; the last one's is shared out in proportion to the student's
    own probabilities, which is the exact gradient of the student's tail. Tokens drawn from the tail add to the forward
    KL, which they are given for, an unbiased estimate of that within the tail.
    """
    assert objective.divergence is not None
    divergence_C, entropy_C = student_CV.new_zeros(len(student_CV)), student_CV.new_zeros(len(student_CV))
    for rows in _tiles(student_CV):
        student_RV, ids_RK = student_CV[rows], targets.ids_NK[rows]
        grad_RV, entropy_C[rows] = _cross_entropy(student_RV, labels_C, rows, objective)
        log_q_RV = torch.log_softmax(_cooled(student_RV, objective.temperature), dim=-1)
        kept_RK = log_q_RV.gather(1, ids_RK)
        others_RV = log_q_RV.scatter_(1, ids_RK, -torch.inf)
        tail_R1 = _finite(others_RV.logsumexp(-1, keepdim=True))
        log_p_RX = torch.cat([targets.log_probs_NK[rows], targets.log_tail_N[rows, None]], dim=1).to(kept_RK.dtype)
        log_q_RX = torch.cat([kept_RK, tail_R1], dim=1)
        divergence_C[rows], by_outcomes_RX = objective.divergence.losses(_finite(log_p_RX), log_q_RX)
        log_shares_RV = others_RV.sub_(tail_R1)
        weight_RV = by_outcomes_RX[:, -1:]
        if targets.drawn is not None:
            tail_p_R1 = _finite(log_p_RX[:, -1:]).exp()
            divergence_C[rows] += tail_p_R1.squeeze(1) * _within_tail(log_shares_RV, targets.drawn.rows(rows))
            weight_RV = weight_RV + tail_p_R1
        by_logits_RV = log_shares_RV.exp_().mul_(weight_RV)
        if targets.drawn is not None:
            drawn_RM = targets.drawn.ids_NM[rows]
            by_logits_RV.scatter_add_(1, drawn_RM, (-tail_p_R1 / drawn_RM.shape[1]).expand(-1, drawn_RM.shape[1]))
        by_logits_RV.scatter_(1, ids_RK, by_outcomes_RX[:, :-1])
        _write_gradient(student_RV, by_logits_RV, grad_RV, objective)
    return divergence_C.mul_(objective.temperature**2), entropy_C


def _within_tail(log_shares_RV: torch.Tensor, drawn: DrawnTokens) -> torch.Tensor:
    # KL of the student's distribution over the tail from the teacher's: cross-entropy by the draws, less the entropy.
    return -_finite(log_shares_RV.gather(1, drawn.ids_NM)).mean(1) - drawn.entropy_N.to(log_shares_RV.dtype)


def _finite(log_p_RX: torch.Tensor) -> torch.Tensor:
    # An outcome without probability; its logarithm times 0 must be 0.
    return log_p_RX.masked_fill(log_p_RX == -torch.inf, math.log(torch.finfo(log_p_RX.dtype).tiny))


def _tiles(x_CV: torch.Tensor) -> Iterator[slice]:
    fitting = max(1, TILE_BYTES // (x_CV.shape[1] * x_CV.element_size()))
    rows = len(x_CV) if x_CV.device.type == "cuda" else fitting
    yield from (slice(start, start + rows) for start in range(0, len(x_CV), rows))


def _cooled(logits_RV: torch.Tensor, temperature: float) -> torch.Tensor:
    return logits_RV if temperature == 1 else logits_RV / temperature


def _cross_entropy(
    student_RV: torch.Tensor,
    labels_C: torch.Tensor | None,
    rows: slice,
    objective: Objective,
) -> tuple[torch.Tensor | None, torch.Tensor]:
    if labels_C is None or objective.cross_entropy == 0:
        return None, student_RV.new_zeros(len(student_RV))
    log_q_RV, labels_R1 = torch.log_softmax(student_RV, dim=-1), labels_C[rows, None]
    log_q_R = log_q_RV.gather(1, labels_R1).squeeze(1)
    grad_RV = log_q_RV.exp_()
    grad_RV.scatter_add_(1, labels_R1, -torch.ones_like(labels_R1, dtype=grad_RV.dtype))
    return grad_RV.mul_(objective.cross_entropy), -log_q_R


def _write_gradient(
    out_RV: torch.Tensor, by_cooled_RV: torch.Tensor, other_RV: torch.Tensor | None, objective: Objective
) -> None:
    # T^2 of the loss times 1/T of the logits' division.
    torch.mul(by_cooled_RV, objective.temperature, out=out_RV)
    if other_RV is not None:
        out_RV.add_(other_RV)
