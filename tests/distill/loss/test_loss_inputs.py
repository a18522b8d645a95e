"""What the loss does with its inputs: masks, frozen ones, strides, second backwards and what it refuses."""

# N tokens, V vocabulary, D hidden, K outcomes kept of the teacher

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from minitron.distill.loss.chunked import distillation_loss
from minitron.distill.loss.divergences.forward_kl import ForwardKL
from minitron.distill.loss.objective import DenseTargets, Objective
from tests.support.loss_problems import (
    MASKS,
    Problem,
    assert_solves,
    assert_solves_to_rounding,
    dense_or_top,
    dense_problem,
    every_divergence,
    mixed,
    norm,
    top_of,
    with_kept,
    with_labels,
)
from tests.support.loss_reference import as_array

N = 13


@dense_or_top
@pytest.mark.parametrize("mask", ["none counts", "one counts"])
def test_tokens_that_do_not_count_move_nothing_whatever_is_in_them(mask: str, kept: int | None) -> None:
    problem = with_kept(with_labels(dense_problem(mixed(ForwardKL()), mask_N=MASKS[mask](N))), kept)
    assert problem.mask_N is not None
    assert problem.labels_N is not None
    labels_N = torch.where(problem.mask_N, problem.labels_N, -100)
    hidden_ND = torch.where(problem.mask_N[:, None], problem.student_hidden_ND, torch.nan)
    solution = replace(problem, labels_N=labels_N, student_hidden_ND=hidden_ND).solve()
    assert_solves_to_rounding(solution, problem.reference(), 1e-6)
    assert (solution.hidden_grad_ND[~problem.mask_N] == 0).all()


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
    problem = with_kept(with_labels(dense_problem(mixed(divergence), mask_N=MASKS["one counts"](N))), kept)
    targets = problem.targets
    assert targets is not None
    inputs = [problem.student_hidden_ND, problem.student_head_VD, problem.labels_N, problem.mask_N]
    inputs += [getattr(targets, name) for name in targets.__slots__ if name != "drawn"]
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
    problem = with_kept(with_labels(dense_problem(mixed(ForwardKL()))), kept)
    problem = replace(problem, mask_N=torch.ones(N, dtype=torch.bool) if of == "mask" else None)
    problem.solve()
    with pytest.raises(ValueError, match="token"):
        FEWER[of](problem).solve()


def test_a_cross_entropy_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        dense_problem(mixed(ForwardKL())).solve()


def test_the_heads_gradient_is_handed_over_and_not_copied() -> None:
    hidden_ND, head_VD = torch.randn(5, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    targets = DenseTargets(hidden_ND=torch.randn(5, 3), head_VD=torch.randn(9, 3))
    total = distillation_loss(hidden_ND, head_VD, targets, Objective()).total
    made = total.grad_fn.grads[1].data_ptr()  # type: ignore[union-attr]
    total.backward()  # type: ignore[no-untyped-call]
    assert head_VD.grad is not None
    assert head_VD.grad.data_ptr() == made
