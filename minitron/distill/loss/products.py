"""Matrix products of the loss, with logits and sums in fp32 (fp64 for fp64) whatever the inputs are stored in.

On CUDA bf16 inputs go through products that accumulate and give fp32; elsewhere narrow heads are widened a block of
rows at a time, since CPUs multiply fp32 faster, so that no wide copy of a head is ever held.
"""

# C tokens of a chunk, V vocabulary, D hidden

from collections.abc import Iterator

import torch

# Rows of a narrow head that are widened at once: at a hidden size of 5120 they take 160 MiB in fp32.
HEAD_ROWS = 8192


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums and logits of a dtype are held in.

    >>> wide_dtype(torch.bfloat16), wide_dtype(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def logits_into(out_CV: torch.Tensor, hidden_CD: torch.Tensor, head_VD: torch.Tensor) -> None:
    """Writes hidden @ head.T into a wide buffer."""
    if _multiplies_narrow(head_VD):
        torch.mm(hidden_CD.to(head_VD.dtype), head_VD.T, out_dtype=out_CV.dtype, out=out_CV)
        return
    hidden_CD = hidden_CD.to(out_CV.dtype)
    for rows, wide_RD in _wide_rows(head_VD, out_CV.dtype):
        torch.mm(hidden_CD, wide_RD.T, out=out_CV[:, rows])


def hidden_grad(grad_CV: torch.Tensor, head_VD: torch.Tensor) -> torch.Tensor:
    """[C, D] gradient of the hidden states, grad @ head, wide."""
    if _multiplies_narrow(head_VD):
        return torch.mm(grad_CV.to(head_VD.dtype), head_VD, out_dtype=grad_CV.dtype)
    grad_CD = grad_CV.new_zeros(len(grad_CV), head_VD.shape[1])
    for rows, wide_RD in _wide_rows(head_VD, grad_CV.dtype):
        grad_CD.addmm_(grad_CV[:, rows], wide_RD)
    return grad_CD


def add_head_grad_(grad_VD: torch.Tensor, grad_CV: torch.Tensor, hidden_CD: torch.Tensor, *, first: bool) -> None:
    """Adds the head's gradient, grad.T @ hidden, to a wide buffer in place; the first call writes it instead."""
    if _multiplies_narrow(hidden_CD):
        narrow_VC = grad_CV.to(hidden_CD.dtype).T
        torch.addmm(grad_VD, narrow_VC, hidden_CD, out_dtype=grad_VD.dtype, beta=int(not first), out=grad_VD)
        return
    hidden_CD = hidden_CD.to(grad_VD.dtype)
    torch.addmm(grad_VD, grad_CV.T, hidden_CD, beta=int(not first), out=grad_VD)


def _multiplies_narrow(x: torch.Tensor) -> bool:
    # Not fp16: differences of probabilities may lie below its range.
    return x.device.type == "cuda" and x.dtype == torch.bfloat16


def _wide_rows(head_VD: torch.Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
    if head_VD.dtype == dtype:
        yield slice(None), head_VD
        return
    for start in range(0, len(head_VD), HEAD_ROWS):
        rows = slice(start, start + HEAD_ROWS)
        yield rows, head_VD[rows].to(dtype)
