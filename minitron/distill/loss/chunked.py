"""The distillation loss from hidden states and heads, without ever holding all logits.

For each chunk of tokens both logits are formed in fp32, the losses are added up, and the gradient of the student's
logits is turned at once into the gradients of its hidden states and head. Four matrix products a chunk (two logits,
two gradients), no recomputation; memory above inputs and gradients is two chunks of logits, whatever the number of
tokens. Source of the objective: arXiv 2408.11796.
"""

# N tokens, C tokens of a chunk, V vocabulary, D hidden (student's and teacher's may differ)

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import Function, FunctionCtx, once_differentiable

from minitron.distill.loss.divergences.forward_kl import ForwardKL
from minitron.distill.loss.objective import DenseTargets, Objective, Targets, TopTargets
from minitron.distill.loss.products import add_head_grad_, hidden_grad, logits_into, wide_dtype
from minitron.distill.loss.rows import row_losses_, top_row_losses_
from minitron.distill.loss.vocabulary import WHOLE, Vocabulary
from minitron.errors import MinitronError

DEFAULT_CHUNK_TOKENS = 512
ROW_PADDING = 16  # numbers behind each row of logits: a line of the cache in fp32


@dataclass(frozen=True, slots=True)
class Losses:
    """Sums over the counted tokens, in nats, fp32 (fp64 for fp64 inputs).

    Attributes:
        total: What is minimized; differentiable.
        divergence: T^2 times the divergence.
        cross_entropy: The cross-entropy, without its factor; 0 where the objective has none.
    """

    total: torch.Tensor
    divergence: torch.Tensor
    cross_entropy: torch.Tensor


def distillation_loss(
    student_hidden_ND: torch.Tensor,
    student_head_VD: torch.Tensor,
    targets: Targets | None,
    objective: Objective,
    *,
    labels_N: torch.Tensor | None = None,
    mask_N: torch.Tensor | None = None,
    vocab_size: int | None = None,
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
) -> Losses:
    """Loss of a student against its teacher, differentiable in the student's hidden states and head.

    Divide by the number of counted tokens of the whole global batch for a mean. Gradients come back in their inputs'
    dtypes; what is added up is held in fp32.

    Args:
        student_hidden_ND: Student's last hidden states, after the final norm.
        student_head_VD: Student's `lm_head.weight`.
        targets: What is known of the teacher; None where the objective has no divergence.
        objective: What is minimized.
        labels_N: Next tokens, where the objective has a cross-entropy.
        mask_N: Which tokens count; all when None. Others cost nothing.
        vocab_size: Rows of both heads beyond it are padding; when None, what the smaller of the heads has.
        chunk_tokens: Tokens whose logits are held at once.

    Raises:
        MinitronError: The inputs do not belong together.
    """
    check_inputs(student_hidden_ND, targets, objective, labels_N=labels_N, mask_N=mask_N, chunk_tokens=chunk_tokens)
    rows = _shared_rows(student_head_VD, targets, vocab_size)
    return compute_losses(
        student_hidden_ND,
        # Not sliced without need: the gradient of a slice is a copy of the head's whole gradient.
        student_head_VD if rows == len(student_head_VD) else student_head_VD[:rows],
        targets,
        objective,
        labels_N=labels_N if objective.cross_entropy else None,
        mask_N=mask_N,
        chunk_tokens=chunk_tokens,
        vocabulary=WHOLE,
    )


def compute_losses(
    student_hidden_ND: torch.Tensor,
    student_head_VD: torch.Tensor,
    targets: Targets | None,
    objective: Objective,
    *,
    labels_N: torch.Tensor | None,
    mask_N: torch.Tensor | None,
    chunk_tokens: int,
    vocabulary: Vocabulary,
) -> Losses:
    """The loss of checked inputs, over a vocabulary that is whole here or in shards."""
    counted_N = None if mask_N is None else mask_N.nonzero().squeeze(1)
    if counted_N is not None and len(counted_N) == len(student_hidden_ND):
        counted_N = None
    job = _Job(
        targets=targets,
        objective=objective,
        labels_N=labels_N,
        counted_N=counted_N,
        chunk_tokens=chunk_tokens,
        vocabulary=vocabulary,
    )
    return Losses(*_ChunkedLoss.apply(student_hidden_ND, student_head_VD, job))  # type: ignore[no-untyped-call]


def check_inputs(
    student_hidden_ND: torch.Tensor,
    targets: Targets | None,
    objective: Objective,
    *,
    labels_N: torch.Tensor | None,
    mask_N: torch.Tensor | None,
    chunk_tokens: int,
) -> None:
    """Refuses inputs that do not belong together.

    Raises:
        MinitronError: Something is missing, or not of the student's tokens.
    """
    if chunk_tokens < 1:
        raise MinitronError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
    if (targets is None) != (objective.divergence is None):
        raise MinitronError("a divergence needs the teacher's targets, and targets need a divergence")
    drawn = isinstance(targets, TopTargets) and targets.sample is not None
    if drawn and not isinstance(objective.divergence, ForwardKL):
        raise MinitronError("tokens drawn from the rest are for the forward KL, leave them out for another divergence")
    if objective.cross_entropy and labels_N is None:
        raise MinitronError("a cross-entropy needs labels, none are given")
    rows = {"labels": labels_N, "mask": mask_N}
    if isinstance(targets, DenseTargets):
        rows["teacher"] = targets.hidden_ND
    elif targets is not None:
        rows["teacher"] = targets.ids_NK
    for name, tensor in rows.items():
        if tensor is not None and len(tensor) != len(student_hidden_ND):
            raise MinitronError(
                f"teacher, student, labels and mask must be of the same tokens, got {len(student_hidden_ND)} of the "
                f"student and {len(tensor)} of the {name}"
            )


def _shared_rows(student_head_VD: torch.Tensor, targets: Targets | None, vocab_size: int | None) -> int:
    teacher = len(targets.head_VD) if isinstance(targets, DenseTargets) else len(student_head_VD)
    smaller = min(len(student_head_VD), teacher)
    if vocab_size is None:
        return smaller
    if not 1 <= vocab_size <= smaller:
        raise MinitronError(
            f"vocab_size must be at most what both heads have, {smaller}, and at least 1, got {vocab_size}"
        )
    return vocab_size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    targets: Targets | None
    objective: Objective
    labels_N: torch.Tensor | None
    counted_N: torch.Tensor | None
    chunk_tokens: int
    vocabulary: Vocabulary


class _ChunkedLoss(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, hidden_ND: torch.Tensor, head_VD: torch.Tensor, job: _Job) -> tuple[Any, ...]:
        device = hidden_ND.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            computed = hidden_ND, head_VD
            if narrow is not None and device == "cuda":
                computed = hidden_ND.to(narrow), head_VD.to(narrow)  # tensor cores; sums stay in fp32
            wants = ctx.needs_input_grad  # type: ignore[attr-defined]
            sums, grads = _walk(*computed, job, hidden=wants[0], head=wants[1])
        ctx.grads = grads  # type: ignore[attr-defined]
        ctx.dtypes = (hidden_ND.dtype, head_VD.dtype)  # type: ignore[attr-defined]
        divergence, entropy = sums
        ctx.mark_non_differentiable(divergence, entropy)
        return divergence + job.objective.cross_entropy * entropy, divergence, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grads, kept = ctx.grads, torch._C._autograd._get_current_graph_task_keep_graph()
        if grads is None:
            raise RuntimeError("the distillation loss was differentiated before; give retain_graph=True the first time")
        if not kept:
            # In place, and no reference is kept: autograd takes the head's buffer over as its gradient, without a copy.
            ctx.grads = None
        given = [
            None if grad is None else (grad * grad_total if kept else grad.mul_(grad_total)).to(dtype)
            for grad, dtype in zip(grads, ctx.dtypes, strict=True)
        ]
        del grads
        return (*given, None)


def _walk(
    hidden_ND: torch.Tensor, head_VD: torch.Tensor, job: _Job, *, hidden: bool, head: bool
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor | None, torch.Tensor | None]]:
    wide = wide_dtype(head_VD.dtype)
    count = len(hidden_ND) if job.counted_N is None else len(job.counted_N)
    held = min(job.chunk_tokens, max(1, count))
    student_buffer = _logits_buffer(held, head_VD, wide)
    teacher_buffer = _logits_buffer(held, head_VD, wide) if isinstance(job.targets, DenseTargets) else None
    grad_hidden_ND = torch.zeros_like(hidden_ND, dtype=wide) if hidden else None
    grad_head_VD = torch.empty_like(head_VD, dtype=wide) if head else None
    divergence, entropy = (torch.zeros((), dtype=wide, device=head_VD.device) for _ in range(2))
    for start in range(0, count, job.chunk_tokens):
        rows: Any = slice(start, min(count, start + job.chunk_tokens))
        student_CV = student_buffer[: rows.stop - start]
        if job.counted_N is not None:
            rows = job.counted_N[rows]
        hidden_CD = hidden_ND[rows]
        logits_into(student_CV, hidden_CD, head_VD)
        labels_C = None if job.labels_N is None else job.labels_N[rows]
        divergence_C, entropy_C = _chunk_losses_(student_CV, teacher_buffer, rows, labels_C, job)
        divergence += divergence_C.sum()
        entropy += entropy_C.sum()
        if grad_hidden_ND is not None:
            grad_hidden_ND[rows] = hidden_grad(student_CV, head_VD)
        if grad_head_VD is not None:
            add_head_grad_(grad_head_VD, student_CV, hidden_CD, first=start == 0)
    if count == 0 and grad_head_VD is not None:
        grad_head_VD.zero_()
    if grad_hidden_ND is not None:
        job.vocabulary.sum_(grad_hidden_ND)  # in fp32: parts that were rounded would not sum to the whole
    return (divergence, entropy), (grad_hidden_ND, grad_head_VD)


def _logits_buffer(tokens: int, head_VD: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # Rows that lie a power of two apart share few lines of a CPU's cache, which slows its products by a seventh.
    vocab_size = len(head_VD)
    return torch.empty(tokens, vocab_size + ROW_PADDING, dtype=dtype, device=head_VD.device)[:, :vocab_size]


def _chunk_losses_(
    student_CV: torch.Tensor, teacher_buffer: torch.Tensor | None, rows: Any, labels_C: torch.Tensor | None, job: _Job
) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(job.targets, TopTargets):
        return top_row_losses_(student_CV, job.targets.rows(rows), job.objective, labels_C)
    teacher_CV = None
    if job.targets is not None and teacher_buffer is not None:
        teacher_CV = teacher_buffer[: len(student_CV)]
        logits_into(teacher_CV, job.targets.hidden_ND[rows], job.targets.head_VD[: student_CV.shape[1]])
    return row_losses_(student_CV, teacher_CV, job.objective, labels_C, vocabulary=job.vocabulary)
