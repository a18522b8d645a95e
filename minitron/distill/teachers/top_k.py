"""Top-k of the teacher's distributions with their tail mass, and the fp16 form in which a cache stores them."""

# N tokens, C tokens of a chunk, V vocabulary, K tokens kept of the teacher, M drawn from the others, X numbers stored

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from minitron.distill.loss.objective import DenseTargets, DrawnTokens, TopTargets
from minitron.distill.loss.products import logits_into, wide_dtype
from minitron.errors import NotFiniteError

CHUNK_TOKENS = 512
LOWEST = torch.finfo(torch.float16).min
# The kept ones have at least 1/V together, so no tail comes nearer to 1 than fp16's smallest step for V <= 2^24.
HIGHEST_TAIL = -(2.0**-24)


@torch.no_grad()
def keep_top_k(
    targets: DenseTargets,
    *,
    top_k: int,
    vocab_size: int,
    temperature: float,
    draws_NM: torch.Tensor | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
) -> TopTargets:
    """The K most likely of the first `vocab_size` tokens at a temperature, best first, in fp32 on the targets' device.

    At any time a few chunks of logits are held, in fp32 whatever the dtype of the teacher.

    Args:
        targets: Whole distributions.
        top_k: Tokens kept.
        vocab_size: Rows of the head beyond it are padding.
        temperature: Softmax temperature.
        draws_NM: Uniform random numbers from 0 to below 1, each of which draws a token from the tail; None draws none.
        chunk_tokens: Tokens whose logits are held at once.

    Raises:
        MinitronError: A logit is not a number.
    """
    head_VD = targets.head_VD[:vocab_size]
    wide = wide_dtype(head_VD.dtype)
    logits_CV = torch.empty(min(chunk_tokens, len(targets.hidden_ND)), len(head_VD), dtype=wide, device=head_VD.device)
    parts = []
    for start in range(0, len(targets.hidden_ND), chunk_tokens):
        rows = slice(start, start + chunk_tokens)
        hidden_CD = targets.hidden_ND[rows]
        chunk_CV = logits_CV[: len(hidden_CD)]
        logits_into(chunk_CV, hidden_CD, head_VD)
        parts.append(_chunk_top_k(chunk_CV.div_(temperature), top_k, None if draws_NM is None else draws_NM[rows]))
    kept = join_targets(parts)
    if kept.log_probs_NK.isnan().any() or kept.log_tail_N.isnan().any():
        raise NotFiniteError("the teacher's logits must be numbers, some are NaN or infinite; try a wider dtype")
    return kept


def join_targets(parts: Sequence[TopTargets]) -> TopTargets:
    """Targets of tokens one after the other."""
    draws = [part.drawn for part in parts if part.drawn is not None]
    drawn = None
    if draws:
        drawn = DrawnTokens(
            ids_NM=torch.cat([one.ids_NM for one in draws]), entropy_N=torch.cat([one.entropy_N for one in draws])
        )
    return TopTargets(
        ids_NK=torch.cat([part.ids_NK for part in parts]),
        log_probs_NK=torch.cat([part.log_probs_NK for part in parts]),
        log_tail_N=torch.cat([part.log_tail_N for part in parts]),
        drawn=drawn,
    )


def to_fp16(targets: TopTargets) -> torch.Tensor:
    """[N, K + 1] log-probabilities in fp16, the tail's last, and where tokens are drawn from it, its entropy behind.

    What lies below fp16, minus infinity too, is -65504.
    """
    numbers = [targets.log_probs_NK, targets.log_tail_N[:, None]]
    if targets.drawn is not None:
        numbers.append(targets.drawn.entropy_N[:, None])
    return torch.cat(numbers, dim=1).clamp(min=LOWEST).half()


def from_fp16(ids_NK: torch.Tensor, numbers_NX: torch.Tensor, drawn_NM: torch.Tensor | None = None) -> TopTargets:
    """Targets in fp32 of stored log-probabilities, kept and tail summing to 1.

    The kept ones are scaled to 1 - tail, whose relative error is at most 2^-11 where fp16 is not subnormal: a small
    tail has a small error, and a large one has a logarithm near 0, where fp16 is finest.
    """
    top_k = ids_NK.shape[1]
    numbers_NX = numbers_NX.float()
    kept_NK, log_tail_N1 = numbers_NX[:, :top_k], numbers_NX[:, top_k : top_k + 1].clamp(max=HIGHEST_TAIL)
    drawn = None if drawn_NM is None else DrawnTokens(ids_NM=drawn_NM, entropy_N=numbers_NX[:, -1])
    log_kept_N1 = torch.log(-torch.expm1(log_tail_N1))
    scaled_NK = kept_NK - kept_NK.logsumexp(1, keepdim=True) + log_kept_N1
    return TopTargets(ids_NK=ids_NK, log_probs_NK=scaled_NK, log_tail_N=log_tail_N1.squeeze(1), drawn=drawn)


def _chunk_top_k(logits_CV: torch.Tensor, top_k: int, draws_CM: torch.Tensor | None) -> TopTargets:
    best_CK, ids_CK = logits_CV.topk(top_k, dim=1)
    most_C1 = best_CK[:, :1].clone()
    log_best_C1 = best_CK.sub_(most_C1).logsumexp(1, keepdim=True)
    log_others_C1 = logits_CV.scatter_(1, ids_CK, -torch.inf).sub_(most_C1).logsumexp(1, keepdim=True)
    # Both from the ratio of the two sums, so that neither a small tail nor a small share of the best cancels.
    odds_C1 = log_best_C1 - log_others_C1
    return TopTargets(
        ids_NK=ids_CK,
        log_probs_NK=best_CK - log_best_C1 + F.logsigmoid(odds_C1),
        log_tail_N=F.logsigmoid(-odds_C1).squeeze(1),
        drawn=None if draws_CM is None else _draw(logits_CV - log_others_C1, draws_CM),
    )


def _draw(log_shares_CV: torch.Tensor, draws_CM: torch.Tensor) -> DrawnTokens:
    log_shares_CV = log_shares_CV.nan_to_num(nan=-torch.inf, neginf=-1e4)  # of a tail of nothing too
    shares_CV = log_shares_CV.exp()
    entropy_C = -(shares_CV * log_shares_CV).sum(1)
    summed_CV = shares_CV.cumsum(1)
    at_CM = draws_CM.to(summed_CV.device, summed_CV.dtype) * summed_CV[:, -1:]
    drawn_CM = torch.searchsorted(summed_CV, at_CM, right=True).clamp_max(summed_CV.shape[1] - 1)
    return DrawnTokens(ids_NM=drawn_CM, entropy_N=entropy_C)
