"""Losses of hidden states against their reference."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitron.distill.loss.hidden_states import HIDDEN_LOSSES, CosineLoss, MSELoss
from tests.support.loss_problems import MASKS, UPSTREAM, norm, normal
from tests.support.loss_reference import as_array, cosine_reference, mse_reference

every_loss = pytest.mark.parametrize(
    ("loss", "of"), [(CosineLoss(), cosine_reference), (MSELoss(), mse_reference)], ids=["cosine", "mse"]
)


def test_both_are_found_by_name() -> None:
    assert set(HIDDEN_LOSSES.values()) == {CosineLoss, MSELoss}


@every_loss
@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(2, 24), min_size=2, max_size=2, unique=True),
    seed=st.integers(0, 2**16),
    mask=st.sampled_from(sorted(set(MASKS) - {"none is given"})),
)
def test_any_states_give_the_reference(
    loss: Callable[..., torch.Tensor], of: Callable[..., Any], sizes: list[int], seed: int, mask: str
) -> None:
    student_ND, teacher_ND = normal((2, *sizes), seed, torch.float32)
    mask_N = MASKS[mask](sizes[0])
    assert mask_N is not None
    student_ND = student_ND.clone().requires_grad_()
    found = loss(student_ND, teacher_ND, mask_N)
    expected, grad_ND = of(student_ND, teacher_ND, mask_N)
    assert (found.shape, found.dtype) == ((), torch.float32)
    assert abs(found.item() - expected) <= 1e-6 * max(expected, int(mask_N.sum()))
    (found_ND,) = torch.autograd.grad(UPSTREAM * found, student_ND)
    # 1 - cos of near neighbors is rounded as 1 is, and so is the part of its gradient along the student
    lengths_N = student_ND.detach().double().norm(dim=1).numpy()
    scale = max(norm(grad_ND), norm(mask_N.numpy() / lengths_N))
    assert norm(as_array(found_ND, np.float64) / UPSTREAM - grad_ND) <= 1e-6 * scale


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_fp32_under_autocast_too(
    loss: Callable[..., torch.Tensor], of: Callable[..., Any], dtype: torch.dtype
) -> None:
    """Differences are a hundredth of the states, so that bf16 arithmetic would lose them."""
    teacher_ND = normal((37, 64), 0, dtype)
    student_ND = (teacher_ND.double() + normal((37, 64), 1, torch.float64, scale=0.05)).to(dtype).requires_grad_()
    mask_N = MASKS["two of three count"](37)
    expected, grad_ND = of(student_ND, teacher_ND, mask_N)
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            found = loss(student_ND, teacher_ND, mask_N)
        (found_ND,) = torch.autograd.grad(found, student_ND)
        assert (found.dtype, found_ND.dtype) == (torch.float32, dtype)
        assert abs(found.item() - expected) <= 2e-4 * expected
        assert norm(as_array(found_ND, np.float64) - grad_ND) <= 4e-3 * norm(grad_ND)


@every_loss
def test_sums_larger_than_fp16_holds_are_finite(loss: Callable[..., torch.Tensor], of: Callable[..., Any]) -> None:
    student_ND, teacher_ND = (normal((5, 64), seed, torch.float16, scale=300) for seed in (0, 1))
    mask_N = torch.ones(5, dtype=torch.bool)
    expected, _ = of(student_ND, teacher_ND, mask_N)
    assert loss(student_ND, teacher_ND, mask_N).item() == pytest.approx(expected, rel=1e-5)


@every_loss
def test_equal_states_cost_nothing(loss: Callable[..., torch.Tensor], of: Callable[..., Any]) -> None:
    states_ND = normal((7, 11), 0, torch.float32)
    assert abs(loss(states_ND, states_ND.clone(), torch.ones(7, dtype=torch.bool)).item()) <= 1e-6


@every_loss
def test_states_of_zero_that_do_not_count_leave_gradients_finite(
    loss: Callable[..., torch.Tensor], of: Callable[..., Any]
) -> None:
    student_ND, teacher_ND = normal((2, 7, 11), 0, torch.float32)
    mask_N = MASKS["two of three count"](7)
    assert mask_N is not None
    student_ND[~mask_N] = 0
    teacher_ND[~mask_N] = 0
    student_ND = student_ND.clone().requires_grad_()
    (found_ND,) = torch.autograd.grad(loss(student_ND, teacher_ND, mask_N), student_ND)
    assert (found_ND[~mask_N] == 0).all()
    grad_ND = of(student_ND, teacher_ND, mask_N)[1]
    assert norm(as_array(found_ND, np.float64) - grad_ND) <= 1e-6 * norm(grad_ND)


def test_a_longer_student_costs_no_cosine() -> None:
    states_ND, mask_N = normal((7, 11), 0, torch.float32), torch.ones(7, dtype=torch.bool)
    assert abs(CosineLoss()(3 * states_ND, states_ND, mask_N).item()) <= 1e-6
    assert MSELoss()(3 * states_ND, states_ND, mask_N).item() > 1
