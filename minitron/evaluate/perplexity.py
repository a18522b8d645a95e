"""Loss of a model on held-out text, and its KL divergence from the teacher."""

# N sequences, T tokens, B sequences of a batch, D hidden, V vocabulary

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from minitron.data.masks import PackedSequences, loss_mask
from minitron.errors import DataError, NotFiniteError
from minitron.progress import track
from minitron.runtime.backbone import last_hidden_states, output_head

# Logits of this many tokens are held at once.
CHUNK_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEvaluation:
    """Means over held-out tokens, in nats: cross-entropy, and KL(teacher || model) where a teacher was given."""

    loss: float
    kl_to_teacher: float | None


@torch.no_grad()
def evaluate_text(
    model: PreTrainedModel,
    sequences_NT: PackedSequences,
    *,
    teacher: PreTrainedModel | None = None,
    batch_size: int = 8,
) -> TextEvaluation:
    """Loss of a model on held-out sequences, and KL(teacher || model) on the same tokens.

    Log-softmax and sums are in fp32. Of the tokens 1..T-1 of each sequence those that count are predicted; the KL
    covers the same positions. The loss is over all rows of the model's head, as in transformers. The KL is over the
    rows that both heads have: those beyond are padding, as in the distillation's loss.

    Raises:
        DataError: A sequence has a single token, or no token counts.
        NotFiniteError: Loss or KL is not finite.
    """
    if sequences_NT.shape[1] < 2:
        raise DataError(f"a sequence must have at least 2 tokens to be evaluated, got {sequences_NT.shape[1]}")
    rows = _vocab_size(model) if teacher is None else min(_vocab_size(model), _vocab_size(teacher))
    loss_sum, kl_sum, tokens = 0.0, 0.0, 0
    starts = range(0, len(sequences_NT), batch_size)
    for start in track(starts, "evaluate text", total=len(starts)):
        batch = slice(start, start + batch_size)
        ids_BT = torch.from_numpy(sequences_NT[batch]).long().to(model.device)
        counted_BT = loss_mask(sequences_NT, batch)
        counted_N = None if counted_BT is None else torch.from_numpy(counted_BT[:, 1:].flatten()).to(model.device)
        targets_N = _counted(ids_BT[:, 1:].flatten(), counted_N)
        hidden_ND = _counted(_hidden(model, ids_BT), counted_N)
        teacher_hidden_ND = None if teacher is None else _counted(_hidden(teacher, ids_BT), counted_N)
        for first in range(0, len(targets_N), CHUNK_TOKENS):
            chunk = slice(first, first + CHUNK_TOKENS)
            logits_NV = _logits(model, hidden_ND[chunk])
            log_q_NV = torch.log_softmax(logits_NV, dim=-1)
            loss_sum += float(F.nll_loss(log_q_NV, targets_N[chunk], reduction="sum"))
            if teacher is not None and teacher_hidden_ND is not None:
                if rows < logits_NV.shape[1]:
                    log_q_NV = torch.log_softmax(logits_NV[:, :rows], dim=-1)
                log_p_NV = torch.log_softmax(_logits(teacher, teacher_hidden_ND[chunk])[:, :rows], dim=-1)
                kl_sum += float((log_p_NV.exp() * (log_p_NV - log_q_NV)).sum())
        tokens += len(targets_N)
    if tokens == 0:
        raise DataError("held-out text must have tokens that count, these sequences have no answer; set loss: all")
    found = TextEvaluation(loss=loss_sum / tokens, kl_to_teacher=None if teacher is None else kl_sum / tokens)
    for name, nats in (("loss", found.loss), ("KL to the teacher", found.kl_to_teacher)):
        if nats is not None and not math.isfinite(nats):
            raise NotFiniteError(f"the {name} on held-out text must be finite, it is {nats}: the model overflows")
    return found


def _counted(rows: torch.Tensor, counted_N: torch.Tensor | None) -> torch.Tensor:
    return rows if counted_N is None else rows[counted_N]


def _hidden(model: PreTrainedModel, ids_BT: torch.Tensor) -> torch.Tensor:
    return last_hidden_states(model, ids_BT)[:, :-1].flatten(0, 1)


def _logits(model: PreTrainedModel, hidden_ND: torch.Tensor) -> torch.Tensor:
    logits_NV: torch.Tensor = model.get_output_embeddings()(hidden_ND).float()
    return logits_NV


def _vocab_size(model: PreTrainedModel) -> int:
    return len(output_head(model))
