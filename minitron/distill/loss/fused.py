"""Losses and gradients of rows of logits in one Triton kernel, for CUDA."""

# C tokens of a chunk, V vocabulary

import functools
import logging
import math

import torch

from minitron.distill.loss.divergences.forward_kl import ForwardKL
from minitron.distill.loss.divergences.jsd import JSD
from minitron.distill.loss.divergences.reverse_kl import ReverseKL
from minitron.distill.loss.fused_kernel import WARPS, block_columns, row_kernel
from minitron.distill.loss.objective import Objective
from minitron.errors import MinitronError

logger = logging.getLogger(__name__)

_KINDS = {ForwardKL: "forward_kl", ReverseKL: "reverse_kl", JSD: "jsd", type(None): "none"}


def has_kernel(objective: Objective) -> bool:
    """Whether the kernel computes this divergence; where it does not, the loss in torch does, and the log says so."""
    divergence = type(objective.divergence)
    if divergence not in _KINDS:
        _say_without_kernel(divergence.__name__)
    return divergence in _KINDS


@functools.cache
def _say_without_kernel(divergence: str) -> None:
    logger.warning("%s has no kernel: torch computes it, several times slower on a GPU", divergence)


def fused_rows_(
    student_CV: torch.Tensor,
    teacher_CV: torch.Tensor | None,
    objective: Objective,
    labels_C: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses [C] (T^2 * divergence in nats) and cross-entropies [C] (0 where the objective has none), both in fp32.

    The gradient of loss + objective.cross_entropy * cross-entropy by the student's raw logits overwrites them. No sum's
    order depends on chance, so the same row always gives the same bits.

    Bytes a row of V columns moves: 20 V for forward KL (both logits read twice, the gradient written once), 28 V for
    reverse KL and JSD (read three times, since the gradient needs the row's loss), 12 V for the cross-entropy alone.

    Args:
        student_CV: Student's logits, fp32, not divided by T; rows may lie further apart than V.
        teacher_CV: Teacher's, likewise; None where the objective has no divergence.
        objective: What is minimized.
        labels_C: Next tokens, where the objective has a cross-entropy; one outside the vocabulary makes it NaN.

    Raises:
        MinitronError: The divergence has no kernel.
    """
    kind = _KINDS.get(type(objective.divergence))
    if kind is None:
        raise MinitronError(
            f"objective.divergence must be ForwardKL, ReverseKL, JSD or None for the fused loss, "
            f"got {type(objective.divergence).__name__}; the loss in torch takes any"
        )
    teacher_CV = None if kind == "none" else teacher_CV
    labels_C = labels_C if objective.cross_entropy > 0 else None
    _check(student_CV, student_CV if kind == "none" else teacher_CV)
    assert objective.cross_entropy == 0 or (labels_C is not None and labels_C.shape == student_CV.shape[:1])
    assert labels_C is None or labels_C.stride(0) == 1
    losses_C, cross_entropies_C = torch.empty(2, len(student_CV), dtype=torch.float32, device=student_CV.device)
    beta = objective.divergence.beta if isinstance(objective.divergence, JSD) else 0.5
    at_one = kind == "none" or objective.temperature == 1 or labels_C is None
    if len(student_CV) > 0:
        with torch.cuda.device_of(student_CV):  # type: ignore[no-untyped-call]
            row_kernel[(len(student_CV),)](
                (student_CV, student_CV.stride(0), teacher_CV, _stride(teacher_CV), labels_C),
                (losses_C, cross_entropies_C),
                student_CV.shape[1],
                (
                    float(objective.temperature),
                    float(objective.cross_entropy),
                    beta,
                    math.log(beta),
                    math.log(1 - beta),
                ),
                MODE=(kind, labels_C is not None, at_one),
                BLOCK=block_columns(student_CV.shape[1]),
                num_warps=WARPS,
            )
    return losses_C, cross_entropies_C


def _stride(rows_CV: torch.Tensor | None) -> int:
    return 0 if rows_CV is None else rows_CV.stride(0)


def _check(student_CV: torch.Tensor, teacher_CV: torch.Tensor | None) -> None:
    """What the kernel would otherwise read or write out of bounds."""
    assert teacher_CV is not None
    assert len(teacher_CV) == len(student_CV)
    assert 0 < student_CV.shape[1] <= teacher_CV.shape[1]
    assert student_CV.dtype == teacher_CV.dtype == torch.float32
    assert student_CV.stride(1) == teacher_CV.stride(1) == 1
