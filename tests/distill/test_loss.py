import pytest
import torch
from torch.nn import functional as F

from minitron.distill import forward_kl

N, V, D_STUDENT, D_TEACHER = 13, 31, 7, 11


def make_inputs(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    student_hidden, student_head = normal(N, D_STUDENT).requires_grad_(), normal(V, D_STUDENT).requires_grad_()
    return student_hidden, student_head, normal(N, D_TEACHER), normal(V, D_TEACHER)


def reference(inputs: tuple[torch.Tensor, ...], temperature: float, mask_N: torch.Tensor) -> torch.Tensor:
    """The textbook loss in fp64 on whole logits."""
    student_hidden, student_head, teacher_hidden, teacher_head = (tensor.double() for tensor in inputs)
    log_q = F.log_softmax(student_hidden @ student_head.T / temperature, dim=-1)
    log_p = F.log_softmax(teacher_hidden @ teacher_head.T / temperature, dim=-1)
    kl_N = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    return (kl_N * mask_N).sum() * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("chunk_tokens", [1, 4, 13, 500])
@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradients_equal_the_fp64_reference(temperature: float, chunk_tokens: int, masked: bool) -> None:
    inputs = make_inputs(torch.float32)
    mask_N = (torch.arange(N) % 3 != 0) if masked else torch.ones(N, dtype=torch.bool)
    expected = reference(inputs, temperature, mask_N.double())
    expected_grads = torch.autograd.grad(3 * expected, inputs[:2])
    found = forward_kl(*inputs, temperature=temperature, mask_N=mask_N if masked else None, chunk_tokens=chunk_tokens)
    found_grads = torch.autograd.grad(3 * found, inputs[:2])
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    for found_grad, expected_grad in zip(found_grads, expected_grads, strict=True):
        assert (found_grad - expected_grad).norm() / expected_grad.norm() < 1e-6


def test_gradcheck_passes() -> None:
    student_hidden, student_head, teacher_hidden, teacher_head = make_inputs(torch.float64)
    mask_N = torch.arange(N) % 2 == 0
    assert torch.autograd.gradcheck(
        lambda hidden, head: forward_kl(
            hidden, head, teacher_hidden, teacher_head, temperature=1.7, mask_N=mask_N, chunk_tokens=5
        ),
        (student_hidden, student_head),
    )


def test_bf16_inputs_are_computed_in_fp32() -> None:
    inputs = make_inputs(torch.bfloat16)
    loss = forward_kl(*inputs)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), reference(inputs, 1.0, torch.ones(N)), rtol=1e-5, atol=0)
    (grad, _) = torch.autograd.grad(loss, inputs[:2])
    assert grad.dtype == torch.bfloat16


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient() -> None:
    hidden, head, *_ = make_inputs(torch.float64)
    loss = forward_kl(hidden, head, hidden.detach(), head.detach())
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-12)
    for grad in torch.autograd.grad(loss, (hidden, head)):
        assert grad.abs().max() < 1e-12


def test_different_vocabularies_are_refused() -> None:
    student_hidden, student_head, teacher_hidden, teacher_head = make_inputs(torch.float32)
    with pytest.raises(ValueError, match="must share a vocabulary, got 30 and 31"):
        forward_kl(student_hidden, student_head, teacher_hidden, teacher_head[:-1])
