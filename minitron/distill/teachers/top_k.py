"""The most likely tokens of whole distributions, and what their log-probabilities are after fp16."""

# N tokens, C tokens of a chunk, V vocabulary, K tokens kept of the teacher

import torch
from torch.nn import functional as F

from minitron.distill.loss.objective import DenseTargets, TopTargets
from minitron.distill.loss.products import logits_into, wide_dtype

CHUNK_TOKENS = 512
LOWEST = torch.finfo(torch.float16).min
# The kept ones have at least 1/V together, so no rest comes nearer to 1 than fp16's smallest step for V <= 2^24.
HIGHEST_REST = -(2.0**-24)


@torch.no_grad()
def keep_top_k(
    targets: DenseTargets, *, top_k: int, vocab_size: int, temperature: float, chunk_tokens: int = CHUNK_TOKENS
) -> TopTargets:
    """The K most likely of the first `vocab_size` tokens at a temperature, best first, in fp32 on the targets' device.

    At any time a few chunks of logits are held, in fp32 whatever the dtype of the teacher.

    Raises:
        ValueError: A logit is not a number.
    """
    head_VD = targets.head_VD[:vocab_size]
    wide = wide_dtype(head_VD.dtype)
    logits_CV = torch.empty(min(chunk_tokens, len(targets.hidden_ND)), len(head_VD), dtype=wide, device=head_VD.device)
    parts = []
    for hidden_CD in torch.split(targets.hidden_ND, chunk_tokens):
        chunk_CV = logits_CV[: len(hidden_CD)]
        logits_into(chunk_CV, hidden_CD, head_VD)
        parts.append(_chunk_top_k(chunk_CV.div_(temperature), top_k))
    kept = TopTargets(
        ids_NK=torch.cat([part.ids_NK for part in parts]),
        log_probs_NK=torch.cat([part.log_probs_NK for part in parts]),
        log_rest_N=torch.cat([part.log_rest_N for part in parts]),
    )
    if kept.log_probs_NK.isnan().any() or kept.log_rest_N.isnan().any():
        raise ValueError("the teacher's logits must be numbers, some are NaN or infinite; try a wider dtype")
    return kept


def to_fp16(targets: TopTargets) -> torch.Tensor:
    """[N, K + 1] log-probabilities in fp16, the rest's last; what lies below fp16, minus infinity too, is -65504."""
    log_probs_NX = torch.cat([targets.log_probs_NK, targets.log_rest_N[:, None]], dim=1)
    return log_probs_NX.clamp(min=LOWEST).half()


def from_fp16(ids_NK: torch.Tensor, log_probs_NX: torch.Tensor) -> TopTargets:
    """Targets in fp32 of stored log-probabilities, kept and rest summing to 1.

    The kept ones are scaled to 1 - rest, whose relative error is at most 2^-11 where fp16 is not subnormal: a small
    rest has a small error, and a large one has a logarithm near 0, where fp16 is finest.
    """
    kept_NK, log_rest_N = torch.split(log_probs_NX.float(), [ids_NK.shape[1], 1], dim=1)
    log_rest_N1 = log_rest_N.clamp(max=HIGHEST_REST)
    log_kept_N1 = torch.log(-torch.expm1(log_rest_N1))
    scaled_NK = kept_NK - kept_NK.logsumexp(1, keepdim=True) + log_kept_N1
    return TopTargets(ids_NK=ids_NK, log_probs_NK=scaled_NK, log_rest_N=log_rest_N1.squeeze(1))


def _chunk_top_k(logits_CV: torch.Tensor, top_k: int) -> TopTargets:
    best_CK, ids_CK = logits_CV.topk(top_k, dim=1)
    most_C1 = best_CK[:, :1].clone()
    log_best_C1 = best_CK.sub_(most_C1).logsumexp(1, keepdim=True)
    log_others_C1 = logits_CV.scatter_(1, ids_CK, -torch.inf).sub_(most_C1).logsumexp(1, keepdim=True)
    # Both from the ratio of the two sums, so that neither a small rest nor a small share of the best cancels.
    odds_C1 = log_best_C1 - log_others_C1
    return TopTargets(
        ids_NK=ids_CK,
        log_probs_NK=best_CK - log_best_C1 + F.logsigmoid(odds_C1),
        log_rest_N=F.logsigmoid(-odds_C1).squeeze(1),
    )
