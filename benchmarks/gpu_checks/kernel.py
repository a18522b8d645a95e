"""The fused kernel, and the whole loss that takes it on CUDA, against the loss in torch in fp64."""

# C rows of logits, V columns; N tokens, D hidden

from collections.abc import Iterator

import torch
from kd_methods import METHODS, Inputs, random_inputs

from gpu_checks.row import Row, not_run, within
from gpu_checks.target import Target
from minitron.distill.loss.chunked import DEFAULT_CHUNK_TOKENS
from minitron.distill.loss.divergences.forward_kl import ForwardKL
from minitron.distill.loss.divergences.jsd import JSD
from minitron.distill.loss.divergences.reverse_kl import ReverseKL
from minitron.distill.loss.objective import Objective
from minitron.distill.loss.rows import row_losses_

OBJECTIVES = {
    "forward KL": Objective(divergence=ForwardKL()),
    "forward KL and cross-entropy, temperature 2": Objective(
        divergence=ForwardKL(), temperature=2.0, cross_entropy=0.3
    ),
    "reverse KL": Objective(divergence=ReverseKL()),
    "JSD": Objective(divergence=JSD()),
    "cross-entropy alone": Objective(divergence=None, cross_entropy=1.0),
}
KERNEL_ALLOWED = 1e-5
# Of loss and gradients. Rounding a gradient to bf16 alone costs 0.0017; on CUDA that of the logits is rounded, too.
LOSS_ALLOWED = {torch.float32: (1e-4, 1e-4), torch.bfloat16: (1e-3, 1e-2)}


def run(target: Target) -> Iterator[Row]:
    """Relative errors of values and gradients."""
    yield from _kernel_rows(target)
    for dtype in LOSS_ALLOWED:
        yield from _loss_rows(target, dtype)


def _kernel_rows(target: Target) -> Iterator[Row]:
    try:
        from minitron.distill.loss.fused import fused_rows_
    except ImportError as error:
        if target.on_cuda:
            raise
        yield not_run("kernel", str(error))
        return
    tokens, columns = target.sizes.rows
    generator = torch.Generator(target.device).manual_seed(0)
    draw = {"generator": generator, "device": target.device}
    student_CV, teacher_CV = (2 * torch.randn(tokens, columns, **draw) for _ in range(2))
    labels_C = torch.randint(columns, (tokens,), **draw)
    for title, objective in OBJECTIVES.items():
        taught = None if objective.divergence is None else teacher_CV
        grad_CV, true_grad_CV = student_CV.clone(), student_CV.double()
        found = fused_rows_(grad_CV, taught, objective, labels_C)
        truth = row_losses_(true_grad_CV, None if taught is None else taught.double(), objective, labels_C)
        total_C, true_total_C = (losses[0] + objective.cross_entropy * losses[1] for losses in (found, truth))
        yield within(f"kernel, {title}: values", relative_error(total_C, true_total_C), KERNEL_ALLOWED)
        yield within(f"kernel, {title}: gradient", relative_error(grad_CV, true_grad_CV), KERNEL_ALLOWED)


def _loss_rows(target: Target, dtype: torch.dtype) -> Iterator[Row]:
    tokens, hidden, vocab = target.sizes.errors
    inputs = random_inputs(tokens, hidden, vocab, device=target.device, dtype=dtype, noise=0.035)
    found, truth = _loss_and_grads(inputs), _loss_and_grads(inputs.to(torch.float64))
    allowed, grad_allowed = LOSS_ALLOWED[dtype]
    name = str(dtype).removeprefix("torch.")
    yield within(f"loss, {name}: value", relative_error(found[0], truth[0]), allowed)
    yield within(f"loss, {name}: gradient of hidden states", relative_error(found[1], truth[1]), grad_allowed)
    yield within(f"loss, {name}: gradient of head", relative_error(found[2], truth[2]), grad_allowed)


def _loss_and_grads(inputs: Inputs) -> list[torch.Tensor]:
    loss = METHODS["minitron"].make(DEFAULT_CHUNK_TOKENS)(inputs)
    assert loss is not None
    return [loss, *inputs.take_grads()]


def relative_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is true."""
    return float((found.double() - truth.double()).norm() / truth.double().norm())
