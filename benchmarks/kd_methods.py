"""The distillation losses that `kd_loss.py` holds side by side, each as one forward and backward from hidden states.

All give the mean forward KL of tokens at temperature 1 and leave the gradients of the student's hidden states and head
in `.grad`, as a training step does after `zero_grad(set_to_none=True)`.
"""

# N tokens, C tokens of a chunk, V vocabulary, D hidden

from collections.abc import Callable
from dataclasses import dataclass

import torch

from minitron.distill.loss.chunked import DEFAULT_CHUNK_TOKENS, distillation_loss
from minitron.distill.loss.objective import DenseTargets, Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a loss is given: hidden states and heads of student and teacher."""

    student_ND: torch.Tensor
    student_head_VD: torch.Tensor
    teacher_ND: torch.Tensor
    teacher_head_VD: torch.Tensor

    def first(self, tokens: int) -> "Inputs":
        """The first so many tokens, as leaves of their own."""
        return Inputs(
            student_ND=self.student_ND.detach()[:tokens].requires_grad_(),
            student_head_VD=self.student_head_VD,
            teacher_ND=self.teacher_ND[:tokens],
            teacher_head_VD=self.teacher_head_VD,
        )

    def to(self, dtype: torch.dtype) -> "Inputs":
        """The same values in another dtype, as leaves of their own."""
        return Inputs(
            student_ND=self.student_ND.detach().to(dtype).requires_grad_(),
            student_head_VD=self.student_head_VD.detach().to(dtype).requires_grad_(),
            teacher_ND=self.teacher_ND.to(dtype),
            teacher_head_VD=self.teacher_head_VD.to(dtype),
        )

    def take_grads(self) -> list[torch.Tensor]:
        """Gradients of the student's hidden states and head, which are cleared."""
        grads = []
        for leaf in (self.student_ND, self.student_head_VD):
            if leaf.grad is not None:
                grads.append(leaf.grad)
                leaf.grad = None
        return grads


def random_inputs(
    tokens: int, hidden: int, vocab: int, *, device: str, dtype: torch.dtype, noise: float, logit_std: float = 3.0
) -> Inputs:
    """A teacher of normal logits, and a student that is the teacher plus noise; made in `dtype`, without copies."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(rows: int, std: float) -> torch.Tensor:
        return torch.empty(rows, hidden, device=device, dtype=dtype).normal_(0, std, generator=generator)

    teacher_ND, teacher_head_VD = normal(tokens, 1), normal(vocab, logit_std / hidden**0.5)
    return Inputs(
        student_ND=normal(tokens, noise).add_(teacher_ND).requires_grad_(),
        student_head_VD=normal(vocab, noise * logit_std / hidden**0.5).add_(teacher_head_VD).requires_grad_(),
        teacher_ND=teacher_ND,
        teacher_head_VD=teacher_head_VD,
    )


# A loss whose gradients are in `.grad`; of the floor nothing.
Loss = Callable[[Inputs], torch.Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to the loss.

    Attributes:
        title: Its row in the tables.
        make: Gives the loss; imports what it needs.
        needs: The package to install for it; None where it comes with minitron.
        logits: Numbers of tokens and vocabulary -> fp32 numbers of logits at its peak, about; tells what fits.
        cuda: Whether it runs on CUDA alone.
    """

    title: str
    make: Callable[[int], Loss]
    needs: str | None = None
    logits: Callable[[int, int], int]
    cuda: bool = False


class Floor:
    """The four matrix products alone, into buffers that are kept, in chunks of tokens.

    Nothing is computed of the logits. Products of bf16 give fp32, as losses need them to.

    Args:
        chunk_tokens: Tokens of a chunk; all when None.
        gap: Numbers between rows of logits. Rows that lie a power of two apart fall on the same lines of the cache, and
            matrix products that write them are slower.
    """

    def __init__(self, chunk_tokens: int | None, *, gap: int = 0) -> None:
        self._chunk_tokens, self._gap = chunk_tokens, gap
        self._buffers: dict[tuple[int, ...], tuple[torch.Tensor, ...]] = {}

    @torch.no_grad()
    def __call__(self, inputs: Inputs) -> None:
        """Runs the products."""
        student_ND, head_VD = inputs.student_ND, inputs.student_head_VD
        chunk = min(self._chunk_tokens or len(student_ND), len(student_ND))
        logits_CV, grad_CV, grad_ND, grad_head_VD = self._of(student_ND, head_VD, chunk)
        for start in range(0, len(student_ND), chunk):
            rows = slice(start, start + chunk)
            hidden_CD = student_ND[rows]
            held = slice(len(hidden_CD))
            _product(inputs.teacher_ND[rows], inputs.teacher_head_VD.T, logits_CV[held])
            _product(hidden_CD, head_VD.T, logits_CV[held])
            _product(grad_CV[held], head_VD, grad_ND[rows])
            if start == 0:
                _product(grad_CV[held].T, hidden_CD, grad_head_VD)
            else:
                _add_product(grad_CV[held].T, hidden_CD, grad_head_VD)

    def _of(self, student_ND: torch.Tensor, head_VD: torch.Tensor, chunk: int) -> tuple[torch.Tensor, ...]:
        key = (*student_ND.shape, chunk)
        if key not in self._buffers:
            self._buffers.clear()
            wide = {"device": head_VD.device, "dtype": torch.float32}
            logits_CV = torch.zeros(chunk, len(head_VD) + self._gap, **wide)[:, : len(head_VD)]
            grad_CV = logits_CV if head_VD.dtype == torch.float32 else logits_CV.to(head_VD.dtype)
            grads = torch.zeros(student_ND.shape, **wide), torch.zeros(head_VD.shape, **wide)
            self._buffers[key] = (logits_CV, grad_CV, *grads)
        return self._buffers[key]


def _product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    else:
        torch.mm(a, b, out_dtype=out.dtype, out=out)


def _add_product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    if a.dtype == out.dtype:
        torch.addmm(out, a, b, out=out)
    else:
        torch.addmm(out, a, b, out_dtype=out.dtype, out=out)


def _minitron(chunk_tokens: int) -> Loss:
    def loss(inputs: Inputs) -> torch.Tensor:
        targets = DenseTargets(hidden_ND=inputs.teacher_ND, head_VD=inputs.teacher_head_VD)
        losses = distillation_loss(
            inputs.student_ND, inputs.student_head_VD, targets, Objective(), chunk_tokens=chunk_tokens
        )
        mean = losses.total / len(inputs.student_ND)
        mean.backward()
        return mean.detach()

    return loss


def _modelopt(_: int) -> Loss:
    from modelopt.torch.distill import LogitsDistillationLoss

    criterion = LogitsDistillationLoss(reduction="none")  # as its KDTrainer takes it, which casts logits to fp32

    def loss(inputs: Inputs) -> torch.Tensor:
        student_NV = (inputs.student_ND @ inputs.student_head_VD.T).float()
        with torch.no_grad():
            teacher_NV = (inputs.teacher_ND @ inputs.teacher_head_VD.T).float()
        mean = criterion(student_NV, teacher_NV).mean()
        mean.backward()
        return mean.detach()

    return loss


def _liger(_: int) -> Loss:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    criterion = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0)

    def loss(inputs: Inputs) -> torch.Tensor:
        labels_N = torch.zeros(len(inputs.student_ND), dtype=torch.int64, device=inputs.student_ND.device)
        mean: torch.Tensor = criterion(
            inputs.student_ND, inputs.student_head_VD, inputs.teacher_ND, inputs.teacher_head_VD, labels_N
        )
        mean.backward()
        return mean.detach()

    return loss


def _liger_triton(_: int) -> Loss:
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    criterion = LigerFusedLinearJSD(jsd_beta=0.0, accum_dtype=torch.float32)

    def loss(inputs: Inputs) -> torch.Tensor:
        mean: torch.Tensor = criterion(
            inputs.student_ND, inputs.student_head_VD, inputs.teacher_ND, inputs.teacher_head_VD, None
        )
        mean.backward()
        return mean.detach()

    return loss


def _trl(_: int) -> Loss:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    def loss(inputs: Inputs) -> torch.Tensor:
        divergence_N, _ = ChunkedDivergenceFunction.apply(
            inputs.student_ND, inputs.student_head_VD, None, inputs.teacher_ND, inputs.teacher_head_VD, None, 0.0
        )
        mean: torch.Tensor = divergence_N.mean()
        mean.backward()
        return mean.detach()

    return loss


METHODS = {
    "floor": Method(title="four products", make=lambda _: Floor(None), logits=lambda n, v: n * v),
    "floor_chunked": Method(
        title="four products, chunked, rows apart",
        make=lambda chunk_tokens: Floor(chunk_tokens, gap=16),
        logits=lambda n, v: min(n, DEFAULT_CHUNK_TOKENS) * v,
    ),
    "minitron": Method(title="minitron", make=_minitron, logits=lambda n, v: 2 * min(n, DEFAULT_CHUNK_TOKENS) * v),
    "modelopt": Method(
        title="ModelOpt LogitsDistillationLoss",
        make=_modelopt,
        logits=lambda n, v: 7 * n * v,
    ),
    "liger": Method(
        title="Liger LigerFusedLinearJSDLoss",
        make=_liger,
        needs="liger-kernel",
        logits=lambda n, v: 8 * min(n, 2048) * v,
    ),
    "liger_triton": Method(
        title="Liger LigerFusedLinearJSD (Triton)",
        make=_liger_triton,
        needs="liger-kernel",
        logits=lambda n, v: 8 * min(n, 512) * v,
        cuda=True,
    ),
    "trl": Method(
        title="TRL ChunkedDivergenceFunction",
        make=_trl,
        needs="trl",
        logits=lambda n, v: 12 * min(n, 4096) * min(v, 32768),
    ),
}
