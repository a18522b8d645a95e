"""The loss against its reference, for random problems, and by autograd's own check."""

# N tokens, V vocabulary, D hidden, K outcomes kept of the teacher

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from minitron.distill.loss.divergences.forward_kl import ForwardKL
from minitron.distill.loss.objective import Objective, TopTargets
from tests.support.loss_problems import (
    DIVERGENCES,
    MASKS,
    TOLERANCE,
    UPSTREAM,
    Problem,
    Solution,
    assert_solves,
    assert_solves_to_rounding,
    dense_or_top,
    dense_problem,
    every_divergence,
    mixed,
    problems,
    top_of,
    vocabulary_of,
    with_kept,
    with_labels,
)
from tests.support.loss_reference import log_softmax

N = 13


@given(drawn=problems(torch.float32))
@settings(max_examples=300)
def test_any_problem_in_fp32(drawn: tuple[Problem, int]) -> None:
    problem, chunk_tokens = drawn
    solution = problem.solve(chunk_tokens=chunk_tokens)
    assert_solves_to_rounding(solution, problem.reference(), TOLERANCE[torch.float32])
    assert {value.dtype for value in (solution.losses.total, solution.hidden_grad_ND)} == {torch.float32}


@given(drawn=problems(torch.float64))
@settings(max_examples=200)
def test_any_problem_in_fp64(drawn: tuple[Problem, int]) -> None:
    problem, chunk_tokens = drawn
    solution = problem.solve(chunk_tokens=chunk_tokens)
    assert_solves_to_rounding(solution, problem.reference(), TOLERANCE[torch.float64])
    assert {value.dtype for value in (solution.losses.total, solution.hidden_grad_ND)} == {torch.float64}


@every_divergence
@dense_or_top
@pytest.mark.parametrize("chunk_tokens", [1, 4, N, 500])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_losses_and_gradients_equal_the_reference(
    divergence: object, kept: int | None, chunk_tokens: int, dtype: torch.dtype
) -> None:
    problem = dense_problem(mixed(divergence), dtype=dtype, rows=(33, 35), vocab_size=31)
    problem = with_kept(with_labels(replace(problem, mask_N=MASKS["two of three count"](N))), kept)
    assert_solves(problem.solve(chunk_tokens=chunk_tokens), problem.reference(), TOLERANCE[dtype])


@every_divergence
@dense_or_top
@pytest.mark.parametrize("factor", [0.0, 0.8])
def test_gradcheck_passes(divergence: object, kept: int | None, factor: float) -> None:
    problem = dense_problem(mixed(divergence, cross_entropy=factor), dtype=torch.float64, tokens=5, rows=(11, 13))
    problem = with_kept(with_labels(replace(problem, mask_N=MASKS["two of three count"](5))), kept)
    inputs = problem.student_hidden_ND.requires_grad_(), problem.student_head_VD.requires_grad_()
    assert torch.autograd.gradcheck(lambda hidden, head: problem.losses(hidden, head, chunk_tokens=3).total, inputs)


def negated(solution: Solution) -> Solution:
    return replace(solution, hidden_grad_ND=-solution.hidden_grad_ND, head_grad_VD=-solution.head_grad_VD)


def without_upstream(solution: Solution) -> Solution:
    return replace(solution, head_grad_VD=solution.head_grad_VD / UPSTREAM)


FAULTS: dict[str, Callable[[Problem], Solution]] = {
    "sign": lambda problem: negated(problem.solve()),
    "upstream gradient": lambda problem: without_upstream(problem.solve()),
    "mask": lambda problem: replace(problem, mask_N=None).solve(),
    "temperature": lambda problem: replace(problem, objective=mixed(ForwardKL(), temperature=1.61)).solve(),
    "direction": lambda problem: replace(problem, objective=mixed(DIVERGENCES["reverse_kl"])).solve(),
    "share": lambda problem: replace(problem, objective=mixed(ForwardKL(), cross_entropy=0.41)).solve(),
    "labels": lambda problem: with_labels(problem, seed=1).solve(),
    "padding": lambda problem: replace(problem, vocab_size=None).solve(),
}


@dense_or_top
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str, kept: int | None) -> None:
    problem = dense_problem(mixed(ForwardKL()), rows=(32, 33), vocab_size=31)
    problem = with_kept(with_labels(replace(problem, mask_N=MASKS["two of three count"](N))), kept)
    expected = problem.reference()
    assert_solves_to_rounding(problem.solve(), expected, 1e-6)
    with pytest.raises(AssertionError):
        assert_solves_to_rounding(FAULTS[fault](problem), expected, 1e-6)


@every_divergence
def test_all_tokens_but_one_are_as_good_as_all(divergence: object) -> None:
    dense = dense_problem(Objective(divergence=divergence), dtype=torch.float64)  # type: ignore[arg-type]
    assert_solves(top_of(dense, vocabulary_of(dense) - 1).solve(), dense.reference(), 1e-12)


def test_the_gradient_of_a_top_token_is_its_error_and_of_others_a_share_of_the_bucket() -> None:
    """With forward KL it is q_v - p_v for the kept, and q_v - q_v / q_rest p_rest for the others."""
    problem = dense_problem(Objective(), dtype=torch.float64, tokens=1, widths=(1, 3))
    problem = top_of(replace(problem, student_hidden_ND=torch.ones(1, 1, dtype=torch.float64)), 4)
    targets = problem.targets
    assert isinstance(targets, TopTargets)
    q_V, ids_K = np.exp(log_softmax(problem.student_head_VD[:, 0].numpy())), targets.ids_NK[0].numpy()
    expected_V = q_V - q_V / (1 - q_V[ids_K].sum()) * targets.log_tail_N.exp().item()
    expected_V[ids_K] = q_V[ids_K] - targets.log_probs_NK[0].exp().numpy()
    found_V = problem.solve().head_grad_VD[:, 0].numpy() / UPSTREAM  # the hidden state is 1: logits are the head
    np.testing.assert_allclose(found_V, expected_V, rtol=1e-10, atol=1e-14)
