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

from minitron.distill.loss.inputs import LossScope, check_inputs
from minitron.distill.loss.objective import DenseTargets, Objective, Rows, Targets, TopTargets
from minitron.distill.loss.products import add_head_grad_, hidden_grad, logits_into, wide_dtype
from minitron.distill.loss.rows import row_losses_, top_row_losses_
from minitron.errors import MinitronError

DEFAULT_CHUNK_TOKENS = 512
EVERYTHING = LossScope()
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
    scope: LossScope = EVERYTHING,
    *,
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
) -> Losses:
    """Loss of a student against its teacher, differentiable in the student's hidden states and head.

    Divide by the number of counted tokens of the whole global batch for a mean. Gradients come back in their inputs'
    dtypes; what is added up is held in fp32.

    Args:
        student_hidden_ND: Student's last hidden states, after the final norm.
        student_head_VD: Student's `lm_head.weight`.
        targets: The teacher's targets; None where the objective has no divergence.
        objective: What is minimized.
        scope: Labels, loss mask and vocabulary.
        chunk_tokens: Tokens whose logits are held at once.

    Raises:
        MinitronError: The inputs do not belong together.
    """
    if chunk_tokens < 1:
        raise MinitronError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
    check_inputs(len(student_hidden_ND), targets, objective, scope)
    rows = scope.rows(student_head_VD, targets)
    job = _Job(
        targets=targets,
        objective=objective,
        labels_N=scope.labels_N if objective.cross_entropy else None,
        counted_N=scope.counted(len(student_hidden_ND)),
        chunk_tokens=chunk_tokens,
    )
    # Not sliced without need: the gradient of a slice is a copy of the head's whole gradient.
    head_VD = student_head_VD if rows == len(student_head_VD) else student_head_VD[:rows]
    return Losses(*_ChunkedLoss.apply(student_hidden_ND, head_VD, job))  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    targets: Targets | None
    objective: Objective
    labels_N: torch.Tensor | None
    counted_N: torch.Tensor | None
    chunk_tokens: int


class _ChunkedLoss(Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden_ND: torch.Tensor, head_VD: torch.Tensor, job: _Job
    ) -> tuple[torch.Tensor, ...]:
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
        rows: Rows = slice(start, min(count, start + job.chunk_tokens))
        student_CV = student_buffer[: min(count, start + job.chunk_tokens) - start]
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
    return (divergence, entropy), (grad_hidden_ND, grad_head_VD)


def _logits_buffer(tokens: int, head_VD: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # Rows that lie a power of two apart share few lines of a CPU's cache, which slows its products by a seventh.
    vocab_size = len(head_VD)
    return torch.empty(tokens, vocab_size + ROW_PADDING, dtype=dtype, device=head_VD.device)[:, :vocab_size]


def _chunk_losses_(
    student_CV: torch.Tensor, teacher_buffer: torch.Tensor | None, rows: Rows, labels_C: torch.Tensor | None, job: _Job
) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(job.targets, TopTargets):
        return top_row_losses_(student_CV, job.targets.rows(rows), job.objective, labels_C)
    teacher_CV = None
    if job.targets is not None and teacher_buffer is not None:
        teacher_CV = teacher_buffer[: len(student_CV)]
        logits_into(teacher_CV, job.targets.hidden_ND[rows], job.targets.head_VD[: student_CV.shape[1]])
    return row_losses_(student_CV, teacher_CV, job.objective, labels_C)
