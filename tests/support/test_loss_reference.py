"""The reference itself, against numbers worked out by hand and its own value's differences."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch

from minitron.distill.loss.divergences.divergence import Divergence
from minitron.distill.loss.divergences.forward_kl import ForwardKL
from minitron.distill.loss.divergences.jsd import JSD
from minitron.distill.loss.divergences.reverse_kl import ReverseKL
from minitron.distill.loss.objective import DenseTargets, Objective
from tests.support.loss_problems import DIVERGENCES, Problem, dense_problem, top_of, with_labels
from tests.support.loss_reference import cosine_reference, mse_reference, reference

TEACHER, STUDENT = (1 / 2, 1 / 2), (1 / 4, 3 / 4)
TO_TEACHER = log(2 / 3) / 4 + log(6 / 5) * 3 / 4  # KL(student || mean of both), which is (3/8, 5/8)
BY_HAND = [
    (ForwardKL(), log(4 / 3) / 2),
    (ReverseKL(), log(1 / 2) / 4 + log(3 / 2) * 3 / 4),
    (JSD(beta=0.5), (log(4 / 3) / 2 + log(4 / 5) / 2) / 2 + TO_TEACHER / 2),
]


@pytest.mark.parametrize(("divergence", "expected"), BY_HAND)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_two_tokens_by_hand(divergence: Divergence, expected: float, temperature: float) -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    teacher_head, student_head = (
        (temperature * torch.tensor(probs, dtype=torch.float64).log())[:, None] for probs in (TEACHER, STUDENT)
    )
    found = reference(
        one,
        student_head,
        DenseTargets(hidden_ND=one, head_VD=teacher_head),
        Objective(divergence=divergence, temperature=temperature),
    )
    assert float(found.divergence) == pytest.approx(temperature**2 * expected, rel=1e-12)


def test_a_label_of_a_quarter_costs_log_four() -> None:
    head = torch.tensor([[1.0], [3.0]], dtype=torch.float64).log()
    found = reference(
        torch.ones(1, 1, dtype=torch.float64),
        head,
        None,
        Objective(divergence=None, cross_entropy=0.5),
        labels_N=torch.tensor([0]),
    )
    assert float(found.cross_entropy) == pytest.approx(log(4), rel=1e-12)
    assert float(found.total) == pytest.approx(log(4) / 2, rel=1e-12)


def check_by_differences(problem: Problem) -> None:
    expected = problem.reference()
    step = 1e-5
    for name, grad in (("student_hidden_ND", expected.hidden_grad_ND), ("student_head_VD", expected.head_grad_VD)):
        found = np.zeros(grad.shape)
        for place in np.ndindex(grad.shape):
            totals = []
            for sign in (-1, 1):
                moved = getattr(problem, name).clone()
                moved[place] += sign * step
                totals.append(replace(problem, **{name: moved}).reference().total)
            found[place] = (totals[1] - totals[0]) / (2 * step)
        np.testing.assert_allclose(found, grad.astype(np.float64), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kept", [None, 1, 4])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradients_are_the_slopes_of_the_value(name: str, kept: int | None) -> None:
    objective = Objective(divergence=DIVERGENCES[name], temperature=1.7, cross_entropy=0.6)
    problem = dense_problem(objective, dtype=torch.float64, tokens=3, rows=(8, 9), widths=(2, 4), vocab_size=7)
    problem = replace(with_labels(problem), mask_N=torch.tensor([True, False, True]))
    check_by_differences(problem if kept is None else top_of(problem, kept))


@pytest.mark.parametrize("of", [cosine_reference, mse_reference])
def test_gradients_of_hidden_losses_are_the_slopes_of_the_value(of: object) -> None:
    assert callable(of)
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    mask = torch.tensor([True, False, True])
    grad, step = of(student, teacher, mask)[1], 1e-6
    for place in np.ndindex(grad.shape):
        moved = torch.zeros_like(student)
        moved[place] = step
        slope = (of(student + moved, teacher, mask)[0] - of(student - moved, teacher, mask)[0]) / (2 * step)
        assert slope == pytest.approx(grad[place], rel=1e-6, abs=1e-8)


def test_cosine_and_mean_square_by_hand() -> None:
    student, teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    assert cosine_reference(student, teacher, torch.tensor([True, True]))[0] == pytest.approx(1 - 3 / 5 + 1)
    assert mse_reference(student, teacher, torch.tensor([True, False]))[0] == pytest.approx((1 + 16) / 2)
