"""The loss at the edges of floating point: near the teacher, far from it, and in narrow dtypes."""

# N tokens, V vocabulary, D hidden, K outcomes kept of the teacher

from dataclasses import replace

import numpy as np
import pytest
import torch

from minitron.distill.loss.divergences.forward_kl import ForwardKL
from minitron.distill.loss.divergences.jsd import JSD
from minitron.distill.loss.objective import DenseTargets, Objective, TopTargets
from tests.support.loss_problems import (
    MASKS,
    Problem,
    assert_solves,
    assert_solves_to_rounding,
    dense_or_top,
    dense_problem,
    every_divergence,
    mixed,
    normal,
    top_of,
    with_kept,
    with_labels,
)

N = 13


@every_divergence
@pytest.mark.parametrize("gap", [22.0, 150.0])
def test_a_rest_is_not_lost_in_rounding_nor_below_what_fp32_holds(divergence: object, gap: float) -> None:
    """1 minus the sum of the kept would be a multiple of 6e-8, and exp(-150) is 0; a log-softmax rounds as its gap."""
    problem = Problem(
        student_hidden_ND=torch.ones(1, 1),
        student_head_VD=torch.tensor([gap, gap - 1, 0.0, -0.5, 0.7, 0.2])[:, None],
        targets=TopTargets(
            ids_NK=torch.tensor([[0, 1]]),
            log_probs_NK=torch.tensor([[0.6, 0.3]]).log(),
            log_tail_N=torch.tensor([0.1]).log(),
        ),
        objective=Objective(divergence=divergence),  # type: ignore[arg-type]
    )
    assert_solves_to_rounding(problem.solve(), problem.reference(), gap * 2e-7)


@pytest.mark.parametrize("divergence", [ForwardKL(), JSD(beta=0.3)], ids=["forward_kl", "jsd"])
def test_a_teacher_with_nothing_left_for_the_rest_is_finite(divergence: object) -> None:
    problem = top_of(dense_problem(mixed(divergence, cross_entropy=0.0)), 5)
    assert isinstance(problem.targets, TopTargets)
    probs_NK = problem.targets.log_probs_NK.exp()
    targets = replace(
        problem.targets,
        log_probs_NK=(probs_NK / probs_NK.sum(-1, keepdim=True)).log(),
        log_tail_N=torch.full((N,), -torch.inf),
    )
    problem = replace(problem, targets=targets)
    assert_solves(problem.solve(), problem.reference(), 1e-6)


@every_divergence
@dense_or_top
def test_logits_of_hundreds_stay_finite_and_right(divergence: object, kept: int | None) -> None:
    """Logits are whole numbers, so that fp32 holds them exactly."""
    problem = dense_problem(mixed(divergence, temperature=1.0))
    assert isinstance(problem.targets, DenseTargets)
    problem = with_labels(
        replace(
            problem,
            student_hidden_ND=(6 * problem.student_hidden_ND).round(),
            student_head_VD=(20 * problem.student_head_VD).round(),
            targets=DenseTargets(
                hidden_ND=(6 * problem.targets.hidden_ND).round(), head_VD=(20 * problem.targets.head_VD).round()
            ),
        )
    )
    assert (problem.student_hidden_ND @ problem.student_head_VD.T).abs().max() > 300
    problem = with_kept(problem, kept)
    assert_solves(problem.solve(), problem.reference(), 1e-6, grad_tolerance=1e-5)


@every_divergence
@dense_or_top
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(divergence: object, kept: int | None) -> None:
    problem = dense_problem(mixed(divergence, cross_entropy=0.0), dtype=torch.float64)
    same = DenseTargets(hidden_ND=problem.student_hidden_ND, head_VD=problem.student_head_VD)
    solution = with_kept(replace(problem, targets=same), kept).solve()
    assert abs(solution.losses.total.item()) < 1e-12
    assert solution.hidden_grad_ND.abs().max() < 1e-12
    assert solution.head_grad_VD.abs().max() < 1e-12


def near_teacher(objective: Objective, dtype: torch.dtype) -> Problem:
    """A student that is its teacher and a little noise, 0.01 nats a token away, at sizes where bf16 products show."""
    tokens, rows, width = 512, 4099, 256
    hidden_ND, head_VD = normal((tokens, width), 0, dtype), normal((rows, width), 1, dtype, scale=2 / width**0.5)
    noise_ND = normal((tokens, width), 2, torch.float64, scale=0.07)
    problem = Problem(
        student_hidden_ND=(hidden_ND.double() + noise_ND).to(dtype),
        student_head_VD=head_VD,
        targets=DenseTargets(hidden_ND=hidden_ND, head_VD=head_VD),
        objective=objective,
        mask_N=MASKS["two of three count"](tokens),
    )
    return with_labels(problem) if objective.cross_entropy else problem


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in (torch.float16, torch.float32))],
    ids=str,
)
def test_a_student_near_its_teacher_loses_nothing_to_rounding_nor_to_autocast(dtype: torch.dtype) -> None:
    problem = near_teacher(Objective(), dtype)
    expected = problem.reference(real=np.float64)
    assert 0.008 < expected.divergence / 341 < 0.012
    # With AVX-512, sums run in another order: 1.4e-5 in fp32.
    grad_tolerance = {torch.bfloat16: 3e-3, torch.float16: 1e-3, torch.float32: 3e-5}[dtype]
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            solution = problem.solve()
        assert solution.losses.total.dtype == solution.losses.divergence.dtype == torch.float32
        assert solution.hidden_grad_ND.dtype == solution.head_grad_VD.dtype == dtype
        assert_solves(solution, expected, 1e-5, grad_tolerance=grad_tolerance)


@every_divergence
@pytest.mark.parametrize("kept", [None, 64], ids=["dense", "top"])
@pytest.mark.slow
def test_every_divergence_near_the_teacher_in_bf16_under_autocast(divergence: object, kept: int | None) -> None:
    objective = mixed(divergence, temperature=1.0, cross_entropy=0.1 if kept else 0.0)
    problem = with_kept(near_teacher(objective, torch.bfloat16), kept)
    if isinstance(problem.targets, TopTargets):
        whole = top_of(replace(problem, targets=near_teacher(objective, torch.float32).targets), 64).targets
        problem = replace(problem, targets=whole)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        solution = problem.solve()
    assert_solves(solution, problem.reference(real=np.float64), 1e-5, grad_tolerance=3e-3)


@dense_or_top
def test_every_input_may_have_its_own_dtype(kept: int | None) -> None:
    problem = dense_problem(Objective())
    assert isinstance(problem.targets, DenseTargets)
    problem = replace(
        problem,
        student_hidden_ND=problem.student_hidden_ND.bfloat16(),
        targets=replace(problem.targets, hidden_ND=problem.targets.hidden_ND.half()),
    )
    problem = problem if kept is None else replace(problem, targets=top_of(dense_problem(Objective()), kept).targets)
    solution = problem.solve()
    assert solution.losses.total.dtype == torch.float32
    assert (solution.hidden_grad_ND.dtype, solution.head_grad_VD.dtype) == (torch.bfloat16, torch.float32)
    assert_solves(solution, problem.reference(), 1e-6, grad_tolerance=4e-3)
