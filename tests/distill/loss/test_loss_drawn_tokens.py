"""The forward KL by the teacher's best tokens and some that are drawn from the tail."""

# N tokens, V vocabulary, D hidden, K outcomes kept of the teacher, M drawn from the others

from dataclasses import replace

import pytest
import torch

from minitron.distill.loss.chunked import distillation_loss
from minitron.distill.loss.divergences.reverse_kl import ReverseKL
from minitron.distill.loss.inputs import LossScope
from minitron.distill.loss.objective import DenseTargets, DrawnTokens, Objective, TopTargets

N, V, D, K = 7, 23, 5, 4


def make_problem() -> tuple[torch.Tensor, torch.Tensor, DenseTargets]:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    # Behind its K best tokens the teacher finds all others alike.
    logits_NV = torch.full((N, V), -1.0, dtype=torch.float64)
    best_NK = torch.stack([torch.randperm(V, generator=generator)[:K] for _ in range(N)])
    logits_NV.scatter_(1, best_NK, normal(N, K).abs() + 1)
    targets = DenseTargets(hidden_ND=logits_NV, head_VD=torch.eye(V, dtype=torch.float64))
    return normal(N, D).requires_grad_(), normal(V, D).requires_grad_(), targets


def sampled(dense: DenseTargets, temperature: float, *, draws: int | None) -> TopTargets:
    """Every token of the tail once, or so many at random."""
    log_p_NV = (dense.hidden_ND / temperature).log_softmax(1)
    log_probs_NK, ids_NK = log_p_NV.topk(K)
    rest_NV = log_p_NV.exp().scatter(1, ids_NK, 0.0)
    shares_NV = rest_NV / rest_NV.sum(1, keepdim=True)
    others_NM = torch.stack([share_V.nonzero().squeeze(1) for share_V in shares_NV])
    if draws is not None:
        others_NM = torch.multinomial(shares_NV, draws, replacement=True, generator=torch.Generator().manual_seed(1))
    entropy_N = -(shares_NV * shares_NV.clamp_min(1e-300).log()).sum(1)
    return TopTargets(
        ids_NK=ids_NK,
        log_probs_NK=log_probs_NK,
        log_tail_N=rest_NV.sum(1).log(),
        drawn=DrawnTokens(ids_NM=others_NM, entropy_N=entropy_N),
    )


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_a_sample_that_is_the_rest_gives_the_whole_kl_and_its_gradient(temperature: float) -> None:
    hidden_ND, head_VD, dense = make_problem()
    objective = Objective(temperature=temperature)
    found, expected = (
        distillation_loss(hidden_ND, head_VD, targets, objective, chunk_tokens=3).total
        for targets in (sampled(dense, temperature, draws=None), dense)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    pairs = zip(
        torch.autograd.grad(found, (hidden_ND, head_VD)),
        torch.autograd.grad(expected, (hidden_ND, head_VD)),
        strict=True,
    )
    for grad, expected_grad in pairs:
        torch.testing.assert_close(grad, expected_grad, rtol=1e-11, atol=1e-13)


def test_many_draws_come_near_the_whole_gradient_and_none_does_not() -> None:
    hidden_ND, head_VD, dense = make_problem()
    targets = sampled(dense, 1.0, draws=20_000)
    expected, drawn, bucket = (
        torch.autograd.grad(distillation_loss(hidden_ND, head_VD, one, Objective()).total, head_VD)[0]
        for one in (dense, targets, replace(targets, drawn=None))
    )
    assert (drawn - expected).norm() < 0.02 * expected.norm()
    assert (bucket - expected).norm() > 0.2 * expected.norm()


def test_gradcheck_passes_with_masks_and_cross_entropy() -> None:
    hidden_ND, head_VD, dense = make_problem()
    targets, labels_N = sampled(dense, 1.3, draws=6), torch.arange(N)
    objective = Objective(temperature=1.3, cross_entropy=0.4)
    scope = LossScope(labels_N=labels_N, mask_N=labels_N % 3 != 0)
    assert torch.autograd.gradcheck(
        lambda hidden, head: distillation_loss(hidden, head, targets, objective, scope, chunk_tokens=2).total,
        (hidden_ND, head_VD),
    )


def test_draws_are_refused_for_other_divergences() -> None:
    hidden_ND, head_VD, dense = make_problem()
    with pytest.raises(ValueError, match="tokens drawn from the tail are for the forward KL"):
        distillation_loss(hidden_ND, head_VD, sampled(dense, 1.0, draws=3), Objective(divergence=ReverseKL()))
