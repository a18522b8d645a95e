"""The loss against its reference, by autograd's own check and at the edges of floating point."""

# N tokens, V vocabulary, D hidden, K outcomes kept of the teacher

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from minitron.distill.divergences import JSD, ForwardKL
from minitron.distill.objective import DenseTargets, Objective, TopTargets
from tests.distill.problems import (
    DIVERGENCES,
    MASKS,
    TOLERANCE,
    UPSTREAM,
    Problem,
    Solution,
    assert_solves,
    assert_solves_to_rounding,
    dense_problem,
    norm,
    normal,
    problems,
    top_of,
    vocabulary_of,
    with_labels,
)
from tests.distill.reference import as_array, log_softmax

N = 13
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES)
dense_or_top = pytest.mark.parametrize("kept", [None, 5], ids=["dense", "top"])


def told_of(problem: Problem, kept: int | None) -> Problem:
    return problem if kept is None else top_of(problem, kept)


def mixed(divergence: object, **changes: object) -> Objective:
    return Objective(**{"divergence": divergence, "temperature": 1.6, "cross_entropy": 0.4} | changes)  # type: ignore[arg-type]


@given(drawn=problems(torch.float32))
@settings(max_examples=300, deadline=None)
def test_any_problem_in_fp32(drawn: tuple[Problem, int]) -> None:
    problem, chunk_tokens = drawn
    solution = problem.solve(chunk_tokens=chunk_tokens)
    assert_solves_to_rounding(solution, problem.reference(), TOLERANCE[torch.float32])
    assert {value.dtype for value in (solution.losses.total, solution.hidden_grad_ND)} == {torch.float32}


@given(drawn=problems(torch.float64))
@settings(max_examples=200, deadline=None)
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
    problem = told_of(with_labels(replace(problem, mask_N=MASKS["two of three count"](N))), kept)
    assert_solves(problem.solve(chunk_tokens=chunk_tokens), problem.reference(), TOLERANCE[dtype])


@every_divergence
@dense_or_top
@pytest.mark.parametrize("factor", [0.0, 0.8])
def test_gradcheck_passes(divergence: object, kept: int | None, factor: float) -> None:
    problem = dense_problem(mixed(divergence, cross_entropy=factor), dtype=torch.float64, tokens=7, rows=(19, 17))
    problem = told_of(with_labels(replace(problem, mask_N=MASKS["two of three count"](7))), kept)
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
    problem = told_of(with_labels(replace(problem, mask_N=MASKS["two of three count"](N))), kept)
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
    expected_V = q_V - q_V / (1 - q_V[ids_K].sum()) * targets.log_rest_N.exp().item()
    expected_V[ids_K] = q_V[ids_K] - targets.log_probs_NK[0].exp().numpy()
    found_V = problem.solve().head_grad_VD[:, 0].numpy() / UPSTREAM  # the hidden state is 1: logits are the head
    np.testing.assert_allclose(found_V, expected_V, rtol=1e-10, atol=1e-14)


@every_divergence
def test_a_rest_of_a_billionth_is_not_lost_in_rounding(divergence: object) -> None:
    """1 minus the sum of the kept would be a multiple of 6e-8; one log-softmax of -22 is off by up to 1e-6."""
    problem = Problem(
        student_hidden_ND=torch.ones(1, 1),
        student_head_VD=torch.tensor([22.0, 21.0, 0.0, -0.5, 0.7, 0.2])[:, None],
        targets=TopTargets(
            ids_NK=torch.tensor([[0, 1]]),
            log_probs_NK=torch.tensor([[0.6, 0.3]]).log(),
            log_rest_N=torch.tensor([0.1]).log(),
        ),
        objective=Objective(divergence=divergence),  # type: ignore[arg-type]
    )
    assert_solves_to_rounding(problem.solve(), problem.reference(), 3e-6)


@pytest.mark.parametrize("divergence", [ForwardKL(), JSD(beta=0.3)], ids=["forward_kl", "jsd"])
def test_a_teacher_with_nothing_left_for_the_rest_is_finite(divergence: object) -> None:
    problem = top_of(dense_problem(mixed(divergence, cross_entropy=0.0)), 5)
    assert isinstance(problem.targets, TopTargets)
    probs_NK = problem.targets.log_probs_NK.exp()
    targets = replace(
        problem.targets,
        log_probs_NK=(probs_NK / probs_NK.sum(-1, keepdim=True)).log(),
        log_rest_N=torch.full((N,), -torch.inf),
    )
    problem = replace(problem, targets=targets)
    assert_solves(problem.solve(), problem.reference(), 1e-6)


@every_divergence
def test_logits_of_hundreds_stay_finite_and_right(divergence: object) -> None:
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
    assert_solves(problem.solve(), problem.reference(), 1e-6, grad_tolerance=1e-5)


@every_divergence
@dense_or_top
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(divergence: object, kept: int | None) -> None:
    problem = dense_problem(mixed(divergence, cross_entropy=0.0), dtype=torch.float64)
    same = DenseTargets(hidden_ND=problem.student_hidden_ND, head_VD=problem.student_head_VD)
    solution = told_of(replace(problem, targets=same), kept).solve()
    assert abs(solution.losses.total.item()) < 1e-12
    assert solution.hidden_grad_ND.abs().max() < 1e-12
    assert solution.head_grad_VD.abs().max() < 1e-12


@pytest.mark.parametrize("mask", ["none counts", "one counts"])
def test_tokens_that_do_not_count_move_nothing(mask: str) -> None:
    problem = with_labels(dense_problem(mixed(ForwardKL()), mask_N=MASKS[mask](N)))
    assert problem.mask_N is not None
    assert problem.labels_N is not None
    labels_N = torch.where(problem.mask_N, problem.labels_N, -100)
    hidden_ND = torch.where(problem.mask_N[:, None], problem.student_hidden_ND, 1e4)
    solution = replace(problem, labels_N=labels_N, student_hidden_ND=hidden_ND).solve()
    assert_solves_to_rounding(solution, problem.reference(), 1e-6)
    assert (solution.hidden_grad_ND[~problem.mask_N] == 0).all()


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_student_near_its_teacher_loses_nothing_to_rounding_nor_to_autocast(dtype: torch.dtype) -> None:
    problem = near_teacher(Objective(), dtype)
    expected = problem.reference(real=np.float64)
    assert 0.008 < expected.divergence / 341 < 0.012
    grad_tolerance = {torch.bfloat16: 3e-3, torch.float16: 1e-3, torch.float32: 1e-5}[dtype]
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
    problem = told_of(near_teacher(objective, torch.bfloat16), kept)
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


def test_only_the_total_can_be_differentiated() -> None:
    problem = with_labels(dense_problem(mixed(ForwardKL())))
    losses = problem.losses(problem.student_hidden_ND.requires_grad_(), problem.student_head_VD.requires_grad_())
    assert losses.total.requires_grad
    assert not losses.divergence.requires_grad
    assert not losses.cross_entropy.requires_grad


@pytest.mark.parametrize("frozen", ["hidden", "head", "both"])
def test_a_frozen_input_has_no_gradient_and_the_other_its_own(frozen: str) -> None:
    problem = with_labels(dense_problem(mixed(ForwardKL())))
    hidden_ND = problem.student_hidden_ND.clone().requires_grad_(frozen == "head")
    head_VD = problem.student_head_VD.clone().requires_grad_(frozen == "hidden")
    total, expected = problem.losses(hidden_ND, head_VD, chunk_tokens=4).total, problem.reference()
    assert abs(total.item() - expected.total) <= 1e-6 * expected.total
    assert total.requires_grad == (frozen != "both")
    if frozen != "both":
        total.backward()
    for tensor, grad in ((hidden_ND, expected.hidden_grad_ND), (head_VD, expected.head_grad_VD)):
        assert (tensor.grad is None) != tensor.requires_grad
        if tensor.grad is not None:
            assert norm(as_array(tensor.grad, np.float64) - grad) <= 1e-6 * norm(grad)


def test_losses_alone_need_no_gradient() -> None:
    problem = with_labels(dense_problem(mixed(ForwardKL())))
    hidden_ND, head_VD = problem.student_hidden_ND.requires_grad_(), problem.student_head_VD.requires_grad_()
    with torch.no_grad():
        losses = problem.losses(hidden_ND, head_VD)
    assert not losses.total.requires_grad
    assert losses.total.item() == pytest.approx(float(problem.reference().total), rel=1e-6)


@every_divergence
@dense_or_top
def test_inputs_are_left_as_they_were(divergence: object, kept: int | None) -> None:
    problem = told_of(with_labels(dense_problem(mixed(divergence), mask_N=MASKS["one counts"](N))), kept)
    targets = problem.targets
    assert targets is not None
    inputs = [problem.student_hidden_ND, problem.student_head_VD, problem.labels_N, problem.mask_N]
    inputs += [getattr(targets, name) for name in targets.__slots__]
    before = [tensor.clone() for tensor in inputs if tensor is not None]
    problem.losses(problem.student_hidden_ND, problem.student_head_VD)
    hidden_ND, head_VD = problem.student_hidden_ND.requires_grad_(), problem.student_head_VD.requires_grad_()
    problem.losses(hidden_ND, head_VD).total.backward()
    for tensor, was in zip(inputs, before, strict=True):
        assert tensor is not None
        assert torch.equal(tensor.detach(), was)


def test_strides_do_not_matter() -> None:
    problem = with_labels(dense_problem(mixed(ForwardKL())))
    assert isinstance(problem.targets, DenseTargets)
    strided = replace(
        problem,
        student_hidden_ND=problem.student_hidden_ND.T.contiguous().T,
        student_head_VD=problem.student_head_VD.T.contiguous().T,
        targets=replace(problem.targets, hidden_ND=problem.targets.hidden_ND.T.contiguous().T),
    )
    assert not strided.student_hidden_ND.is_contiguous()
    assert_solves(strided.solve(chunk_tokens=5), problem.reference(), 1e-6)


def test_a_second_backward_is_an_error() -> None:
    problem = dense_problem(Objective())
    hidden_ND = problem.student_hidden_ND.requires_grad_()
    total = problem.losses(hidden_ND, problem.student_head_VD.requires_grad_()).total
    total.backward()
    with pytest.raises((RuntimeError, ValueError)):
        total.backward()


def test_a_second_backward_of_a_retained_graph_is_the_same_gradient_or_an_error() -> None:
    problem = dense_problem(Objective())
    hidden_ND, head_VD = problem.student_hidden_ND.requires_grad_(), problem.student_head_VD.requires_grad_()
    total = problem.losses(hidden_ND, head_VD, chunk_tokens=4).total
    first = torch.autograd.grad(3 * total, (hidden_ND, head_VD), retain_graph=True)
    kept = [grad.clone() for grad in first]
    try:
        second = torch.autograd.grad(3 * total, (hidden_ND, head_VD))
    except (RuntimeError, ValueError):
        return
    for grad, again, was in zip(first, second, kept, strict=True):
        assert torch.equal(grad, was)
        torch.testing.assert_close(again, was)


def test_a_vocabulary_larger_than_a_head_is_refused() -> None:
    for rows in ((31, 40), (40, 31)):
        with pytest.raises(ValueError, match="vocab_size must be at most .*31.* got 32"):
            dense_problem(Objective(), rows=rows, vocab_size=32).solve()
    with pytest.raises(ValueError, match="vocab_size must be at most .*31.* got 32"):
        replace(top_of(dense_problem(Objective()), 5), vocab_size=32).solve()


FEWER: dict[str, Callable[[Problem], Problem]] = {
    "student": lambda problem: replace(problem, student_hidden_ND=problem.student_hidden_ND[:-1]),
    "labels": lambda problem: replace(problem, labels_N=_without_last(problem.labels_N)),
    "mask": lambda problem: replace(problem, mask_N=_without_last(problem.mask_N)),
}


def _without_last(tensor_N: torch.Tensor | None) -> torch.Tensor:
    assert tensor_N is not None
    return tensor_N[:-1]


@dense_or_top
@pytest.mark.parametrize("of", FEWER)
def test_different_numbers_of_tokens_are_refused(of: str, kept: int | None) -> None:
    problem = told_of(with_labels(dense_problem(mixed(ForwardKL()))), kept)
    problem = replace(problem, mask_N=torch.ones(N, dtype=torch.bool) if of == "mask" else None)
    problem.solve()
    with pytest.raises(ValueError, match="token"):
        FEWER[of](problem).solve()


def test_a_cross_entropy_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        dense_problem(mixed(ForwardKL())).solve()
