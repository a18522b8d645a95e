"""The most likely tokens, and their log-probabilities through fp16."""

import math

import pytest
import torch

from minitron.distill.loss.objective import DenseTargets, TopTargets
from minitron.distill.teachers.top_k import from_fp16, keep_top_k, to_fp16


def given_logits(logits_NV: torch.Tensor) -> DenseTargets:
    return DenseTargets(hidden_ND=logits_NV, head_VD=torch.eye(logits_NV.shape[1]))


def through_fp16(targets: TopTargets) -> TopTargets:
    return from_fp16(targets.ids_NK, to_fp16(targets))


def total(targets: TopTargets) -> torch.Tensor:
    return targets.log_probs_NK.double().exp().sum(1) + targets.log_tail_N.double().exp()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("top_k", [1, 5, 30])
def test_kept_are_the_best_of_the_softmax_and_the_rest_is_all_others(
    top_k: int, temperature: float, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden_ND = torch.randn(23, 13, generator=generator).to(dtype)
    head_VD = torch.randn(37, 13, generator=generator).to(dtype)
    kept = keep_top_k(
        DenseTargets(hidden_ND=hidden_ND, head_VD=head_VD),
        top_k=top_k,
        vocab_size=31,
        temperature=temperature,
        chunk_tokens=5,
    )
    logits_NV = hidden_ND.double() @ head_VD[:31].double().T / temperature
    best_NK, ids_NK = logits_NV.log_softmax(1).topk(top_k)
    rest_N = 1 - best_NK.exp().sum(1)
    assert torch.equal(kept.ids_NK, ids_NK)
    assert kept.log_probs_NK.dtype == kept.log_tail_N.dtype == torch.float32
    torch.testing.assert_close(kept.log_probs_NK.double(), best_NK, atol=1e-5, rtol=0)
    torch.testing.assert_close(kept.log_tail_N.double(), rest_N.log(), atol=1e-5, rtol=1e-5)


def test_neither_a_tiny_rest_nor_a_tiny_share_of_the_best_cancels() -> None:
    certain, flat = torch.zeros(1000), torch.zeros(1000)
    certain[7], flat[7] = 60.0, 1e-3
    kept = keep_top_k(given_logits(torch.stack([certain, flat])), top_k=1, vocab_size=1000, temperature=1.0)
    best = math.exp(1e-3) / (math.exp(1e-3) + 999)
    expected_rest = torch.tensor([math.log(999) - 60, math.log1p(-best)])
    torch.testing.assert_close(kept.log_tail_N, expected_rest, atol=0, rtol=1e-5)
    torch.testing.assert_close(kept.log_probs_NK[1], torch.tensor([math.log(best)]), atol=0, rtol=1e-5)


def test_kept_and_rest_sum_to_one_after_fp16() -> None:
    generator = torch.Generator().manual_seed(2)
    logits_NV = torch.randn(50, 300, generator=generator) * torch.linspace(0.01, 12, 50)[:, None]
    kept = through_fp16(keep_top_k(given_logits(logits_NV), top_k=9, vocab_size=300, temperature=1.0))
    torch.testing.assert_close(total(kept), torch.ones(50, dtype=torch.float64), atol=1e-6, rtol=0)


def test_fp16_moves_each_probability_by_at_most_its_rounding() -> None:
    generator = torch.Generator().manual_seed(4)
    logits_NV = torch.randn(50, 300, generator=generator) * torch.linspace(0.01, 12, 50)[:, None]
    exact = keep_top_k(given_logits(logits_NV), top_k=9, vocab_size=300, temperature=1.0)
    found = through_fp16(exact)
    # Half a step of fp16 at a log-probability, twice: its own, and the common factor's.
    bound_NK = 2.0**-10 * exact.log_probs_NK.abs().clamp(min=1)
    assert ((found.log_probs_NK - exact.log_probs_NK).abs() <= bound_NK).all()
    assert ((found.log_tail_N - exact.log_tail_N).abs() <= 2.0**-11 * exact.log_tail_N.abs() + 2.0**-25).all()


def test_a_rest_of_nothing_is_finite_and_takes_nothing() -> None:
    masked = torch.full((2, 40), -torch.inf)
    masked[0, 3], masked[1, [3, 4]] = 0.0, 0.0
    exact = TopTargets(
        ids_NK=torch.tensor([[3, 1], [3, 4]]),
        log_probs_NK=masked.log_softmax(1)[:, [3, 4]],
        log_tail_N=torch.full((2,), -torch.inf),
    )
    found = through_fp16(exact)
    assert torch.isfinite(found.log_probs_NK).all()
    assert found.log_tail_N.tolist() == [-65504.0, -65504.0]
    torch.testing.assert_close(found.log_probs_NK.exp(), torch.tensor([[1.0, 0.0], [0.5, 0.5]]))


def test_a_rest_that_rounds_to_everything_leaves_the_kept_ones_finite() -> None:
    stored = torch.tensor([[-16.6, 0.0]]).half()
    found = from_fp16(torch.tensor([[3]]), stored)
    torch.testing.assert_close(found.log_probs_NK, torch.tensor([[-24 * 0.6931472]]))
    torch.testing.assert_close(total(found), torch.ones(1, dtype=torch.float64))


def test_logits_that_are_no_numbers_are_refused() -> None:
    logits_NV = torch.zeros(3, 20)
    logits_NV[1, 4] = torch.nan
    with pytest.raises(ValueError, match="logits must be numbers"):
        keep_top_k(given_logits(logits_NV), top_k=2, vocab_size=20, temperature=1.0)


def test_tokens_are_drawn_as_often_as_the_teacher_says() -> None:
    logits_V = torch.tensor([5.0, 1.0, 0.0, 2.0, 4.0, -1.0, 0.5])
    draws_1M = torch.rand(1, 200_000, generator=torch.Generator().manual_seed(0))
    kept = keep_top_k(given_logits(logits_V[None]), top_k=2, vocab_size=7, temperature=1.5, draws_NM=draws_1M)
    assert kept.drawn is not None
    others = torch.tensor([1, 2, 3, 5, 6])
    expected = (logits_V[others] / 1.5).softmax(0)
    counts = torch.bincount(kept.drawn.ids_NM[0], minlength=7)
    assert counts[[0, 4]].tolist() == [0, 0]
    torch.testing.assert_close(counts[others] / 200_000, expected, atol=4e-3, rtol=0)
    torch.testing.assert_close(kept.drawn.entropy_N[0], -(expected * expected.log()).sum(), atol=1e-5, rtol=0)


def test_a_rest_of_nothing_draws_without_numbers_that_are_none() -> None:
    logits_NV = torch.full((1, 6), -torch.inf)
    logits_NV[0, :2] = torch.tensor([1.0, 2.0])
    kept = keep_top_k(
        DenseTargets(hidden_ND=torch.eye(1), head_VD=logits_NV.T.nan_to_num(neginf=-1e30)),
        top_k=2,
        vocab_size=6,
        temperature=1.0,
        draws_NM=torch.rand(1, 3),
    )
    assert kept.drawn is not None
    assert torch.isfinite(kept.drawn.entropy_N).all()
    assert (kept.drawn.ids_NM < 6).all()
