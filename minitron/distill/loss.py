"""Forward KL between teacher and student logits, from hidden states, without ever holding all logits.

For each chunk of tokens both logits are formed, the loss is added up, and the gradient of the student's logits,
softmax(student) - softmax(teacher), is turned at once into the gradients of the student's hidden states and head.
Four matrix products a chunk (two logits, two gradients), no recomputation; memory above inputs and gradients is a few
chunks of logits (and both heads in fp32, where they are stored narrower), whatever the number of tokens. Source of the
objective: arXiv 2408.11796 (forward KL on logits, temperature 1).
"""

# N tokens, V vocabulary, D hidden (student's and teacher's may differ)

from typing import Any

import torch
from torch.autograd.function import Function, FunctionCtx, once_differentiable

DEFAULT_CHUNK_TOKENS = 512


def forward_kl(
    student_hidden_ND: torch.Tensor,
    student_head_VD: torch.Tensor,
    teacher_hidden_ND: torch.Tensor,
    teacher_head_VD: torch.Tensor,
    *,
    temperature: float = 1.0,
    mask_N: torch.Tensor | None = None,
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
) -> torch.Tensor:
    """Sum over counted tokens of T^2 * KL(teacher || student), in nats; a scalar in fp32 (fp64 for fp64 inputs).

    Differentiable in the student's hidden states and head. Divide by the number of counted tokens of the whole
    global batch for a mean.

    Args:
        student_hidden_ND: Student's last hidden states, after the final norm.
        student_head_VD: Student's `lm_head.weight`.
        teacher_hidden_ND: Teacher's last hidden states.
        teacher_head_VD: Teacher's `lm_head.weight`, of the same vocabulary.
        temperature: Softmax temperature; T^2 keeps the gradient's scale (arXiv 1503.02531).
        mask_N: Which tokens count; all when None.
        chunk_tokens: Tokens whose logits are held at once.

    Raises:
        ValueError: The vocabularies or the numbers of tokens differ.
    """
    if student_head_VD.shape[0] != teacher_head_VD.shape[0]:
        raise ValueError(
            f"teacher and student must share a vocabulary, got {len(teacher_head_VD)} and {len(student_head_VD)}"
        )
    if len(student_hidden_ND) != len(teacher_hidden_ND):
        raise ValueError(
            f"teacher and student must see the same tokens, got {len(teacher_hidden_ND)} and {len(student_hidden_ND)}"
        )
    if mask_N is None:
        mask_N = torch.ones(len(student_hidden_ND), device=student_hidden_ND.device)
    loss: torch.Tensor = _ForwardKL.apply(  # type: ignore[no-untyped-call]
        student_hidden_ND, student_head_VD, teacher_hidden_ND, teacher_head_VD, mask_N, temperature, chunk_tokens
    )
    return loss


class _ForwardKL(Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        student_hidden_ND: torch.Tensor,
        student_head_VD: torch.Tensor,
        teacher_hidden_ND: torch.Tensor,
        teacher_head_VD: torch.Tensor,
        mask_N: torch.Tensor,
        temperature: float,
        chunk_tokens: int,
    ) -> torch.Tensor:
        wide = torch.promote_types(student_head_VD.dtype, torch.float32)
        wants_grad = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        student_head_wide_VD, teacher_head_wide_VD = student_head_VD.to(wide), teacher_head_VD.to(wide)
        loss = torch.zeros((), dtype=wide, device=student_hidden_ND.device)
        grad_hidden_ND = torch.empty_like(student_hidden_ND, dtype=wide) if wants_grad else None
        grad_head_VD = torch.zeros_like(student_head_VD, dtype=wide) if wants_grad else None
        for start in range(0, len(mask_N), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            mask_C1 = mask_N[chunk].to(wide)[:, None]
            hidden_CD = student_hidden_ND[chunk].to(wide)
            student_CV = torch.log_softmax(hidden_CD @ student_head_wide_VD.T / temperature, dim=-1)
            teacher_CV = torch.log_softmax(
                teacher_hidden_ND[chunk].to(wide) @ teacher_head_wide_VD.T / temperature, dim=-1
            )
            p_CV = teacher_CV.exp()
            loss += (p_CV * (teacher_CV - student_CV) * mask_C1).sum() * temperature**2
            if grad_hidden_ND is not None and grad_head_VD is not None:
                grad_logits_CV = student_CV.exp_().sub_(p_CV).mul_(mask_C1 * temperature)
                grad_hidden_ND[chunk] = grad_logits_CV @ student_head_wide_VD
                grad_head_VD.addmm_(grad_logits_CV.T, hidden_CD)
        ctx.grads = (grad_hidden_ND, grad_head_VD)  # type: ignore[attr-defined]
        ctx.dtypes = (student_hidden_ND.dtype, student_head_VD.dtype)  # type: ignore[attr-defined]
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grads = [
            (grad * grad_loss).to(dtype) if needed else None
            for grad, dtype, needed in zip(ctx.grads, ctx.dtypes, ctx.needs_input_grad, strict=False)
        ]
        return (*grads, None, None, None, None, None)
