"""The elementwise part of the loss: logits in, losses out, and in place of the student's logits their gradient.

On CUDA one kernel does it for whole distributions (`fused.py`). Elsewhere rows are taken a few at a time, so that all
passes over them but the first stay in the cache.
"""

# C tokens of a chunk, V vocabulary, K tokens kept of the teacher, M drawn from the others, R rows of a tile

import math
from collections.abc import Iterator

import torch

from minitron.distill.loss.divergences.divergence import sum_rows
from minitron.distill.loss.objective import Objective, RestSample, TopTargets
from minitron.distill.loss.vocabulary import WHOLE, Vocabulary
from minitron.units import MIB

# What a tile of one tensor takes; the fastest of 0.5 to 32 MiB where a core's second-level cache has 1 MiB.
TILE_BYTES = MIB


def row_losses_(
    student_CV: torch.Tensor,
    teacher_CV: torch.Tensor | None,
    objective: Objective,
    labels_C: torch.Tensor | None,
    *,
    vocabulary: Vocabulary = WHOLE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Divergences [C], times T^2, and cross-entropies [C] of whole distributions.

    Args:
        student_CV: Student's wide logits; overwritten by the gradient of divergence + factor * cross-entropy.
        teacher_CV: Teacher's wide logits, which may be overwritten; None where the objective has no divergence.
        objective: What is minimized.
        labels_C: Next tokens; None where the objective has no cross-entropy.
        vocabulary: How rows are summed: whole here, or over the processes that hold shards of them.
    """
    if student_CV.device.type == "cuda" and student_CV.dtype == torch.float32 and vocabulary is WHOLE:
        from minitron.distill.loss.fused import fused_rows_  # triton comes with torch for CUDA alone

        return fused_rows_(student_CV, teacher_CV, objective, labels_C)
    divergence_C, entropy_C = student_CV.new_zeros(len(student_CV)), student_CV.new_zeros(len(student_CV))
    for rows in _tiles(student_CV, whole=vocabulary is not WHOLE):
        student_RV = student_CV[rows]
        grad_RV, entropy_C[rows] = _cross_entropy(student_RV, labels_C, rows, objective, vocabulary)
        if objective.divergence is None or teacher_CV is None:
            assert grad_RV is not None
            student_RV.copy_(grad_RV)
            continue
        log_q_RV = vocabulary.log_softmax(_cooled(student_RV, objective.temperature))
        log_p_RV = vocabulary.log_softmax(_cooled(teacher_CV[rows], objective.temperature))
        divergence_C[rows], by_logits_RV = objective.divergence.losses(log_p_RV, log_q_RV, vocabulary.row_sum)
        _write_gradient(student_RV, by_logits_RV, grad_RV, objective)
    return divergence_C.mul_(objective.temperature**2), entropy_C


def top_row_losses_(
    student_CV: torch.Tensor, targets: TopTargets, objective: Objective, labels_C: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same where of the teacher its most likely tokens are known: K + 1 outcomes, the last one all other tokens.

    The divergence's gradient is that over K + 1 outcomes; the last one's is shared out in proportion to the student's
    own probabilities, which is the exact gradient of the student's rest. Tokens drawn from the rest add to the forward
    KL, which they are given for, an unbiased estimate of that within the rest.
    """
    assert objective.divergence is not None
    divergence_C, entropy_C = student_CV.new_zeros(len(student_CV)), student_CV.new_zeros(len(student_CV))
    for rows in _tiles(student_CV):
        student_RV, ids_RK = student_CV[rows], targets.ids_NK[rows]
        grad_RV, entropy_C[rows] = _cross_entropy(student_RV, labels_C, rows, objective, WHOLE)
        log_q_RV = WHOLE.log_softmax(_cooled(student_RV, objective.temperature))
        kept_RK = log_q_RV.gather(1, ids_RK)
        others_RV = log_q_RV.scatter_(1, ids_RK, -torch.inf)
        rest_R1 = _finite(others_RV.logsumexp(-1, keepdim=True))
        log_p_RX = torch.cat([targets.log_probs_NK[rows], targets.log_rest_N[rows, None]], dim=1).to(kept_RK.dtype)
        log_q_RX = torch.cat([kept_RK, rest_R1], dim=1)
        divergence_C[rows], by_outcomes_RX = objective.divergence.losses(_finite(log_p_RX), log_q_RX, sum_rows)
        log_shares_RV = others_RV.sub_(rest_R1)
        weight_RV = by_outcomes_RX[:, -1:]
        if targets.sample is not None:
            rest_p_R1 = _finite(log_p_RX[:, -1:]).exp()
            divergence_C[rows] += rest_p_R1.squeeze(1) * _within_rest(log_shares_RV, targets.sample.rows(rows))
            weight_RV = weight_RV + rest_p_R1
        by_logits_RV = log_shares_RV.exp_().mul_(weight_RV)
        if targets.sample is not None:
            drawn_RM = targets.sample.ids_NM[rows]
            by_logits_RV.scatter_add_(1, drawn_RM, (-rest_p_R1 / drawn_RM.shape[1]).expand(-1, drawn_RM.shape[1]))
        by_logits_RV.scatter_(1, ids_RK, by_outcomes_RX[:, :-1])
        _write_gradient(student_RV, by_logits_RV, grad_RV, objective)
    return divergence_C.mul_(objective.temperature**2), entropy_C


def _within_rest(log_shares_RV: torch.Tensor, sample: RestSample) -> torch.Tensor:
    # KL of the student's distribution over the rest from the teacher's: cross-entropy by the sample, less the entropy.
    return -_finite(log_shares_RV.gather(1, sample.ids_NM)).mean(1) - sample.entropy_N.to(log_shares_RV.dtype)


def _finite(log_p_RX: torch.Tensor) -> torch.Tensor:
    # An outcome without probability; its logarithm times 0 must be 0.
    return log_p_RX.masked_fill(log_p_RX == -torch.inf, math.log(torch.finfo(log_p_RX.dtype).tiny))


def _tiles(x_CV: torch.Tensor, *, whole: bool = False) -> Iterator[slice]:
    fitting = max(1, TILE_BYTES // (x_CV.shape[1] * x_CV.element_size()))
    rows = len(x_CV) if whole or x_CV.device.type == "cuda" else fitting
    yield from (slice(start, start + rows) for start in range(0, len(x_CV), rows))


def _cooled(logits_RV: torch.Tensor, temperature: float) -> torch.Tensor:
    return logits_RV if temperature == 1 else logits_RV / temperature


def _cross_entropy(
    student_RV: torch.Tensor,
    labels_C: torch.Tensor | None,
    rows: slice,
    objective: Objective,
    vocabulary: Vocabulary,
) -> tuple[torch.Tensor | None, torch.Tensor]:
    if labels_C is None or objective.cross_entropy == 0:
        return None, student_RV.new_zeros(len(student_RV))
    log_q_RV = vocabulary.log_softmax(student_RV)
    log_q_R = vocabulary.pick(log_q_RV, labels_C[rows])
    grad_RV = log_q_RV.exp_()
    vocabulary.subtract_one_(grad_RV, labels_C[rows])
    return grad_RV.mul_(objective.cross_entropy), -log_q_R


def _write_gradient(
    out_RV: torch.Tensor, by_cooled_RV: torch.Tensor, other_RV: torch.Tensor | None, objective: Objective
) -> None:
    # T^2 of the loss times 1/T of the logits' division.
    torch.mul(by_cooled_RV, objective.temperature, out=out_RV)
    if other_RV is not None:
        out_RV.add_(other_RV)
