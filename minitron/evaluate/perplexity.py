"""Loss of a model on held-out text, and its KL divergence from the teacher."""

# N sequences, T tokens, B sequences of a batch, D hidden, V vocabulary

from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from minitron.data.masks import PackedSequences, loss_mask
from minitron.errors import DataError, ShapeError
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
    covers the same positions.

    Raises:
        DataError: A sequence has a single token, or no token counts.
        ShapeError: The vocabularies differ.
    """
    if sequences_NT.shape[1] < 2:
        raise DataError(f"a sequence must have at least 2 tokens to be evaluated, got {sequences_NT.shape[1]}")
    if teacher is not None and _vocab_size(teacher) != _vocab_size(model):
        raise ShapeError(f"teacher and model must share a vocabulary, got {_vocab_size(teacher)}, {_vocab_size(model)}")
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
            log_q_NV = _log_probs(model, hidden_ND[chunk])
            loss_sum += float(F.nll_loss(log_q_NV, targets_N[chunk], reduction="sum"))
            if teacher is not None and teacher_hidden_ND is not None:
                log_p_NV = _log_probs(teacher, teacher_hidden_ND[chunk])
                kl_sum += float((log_p_NV.exp() * (log_p_NV - log_q_NV)).sum())
        tokens += len(targets_N)
    if tokens == 0:
        raise DataError("held-out text must have tokens that count, these sequences have no answer; set loss: all")
    return TextEvaluation(loss=loss_sum / tokens, kl_to_teacher=None if teacher is None else kl_sum / tokens)


def _counted(rows: torch.Tensor, counted_N: torch.Tensor | None) -> torch.Tensor:
    return rows if counted_N is None else rows[counted_N]


def _hidden(model: PreTrainedModel, ids_BT: torch.Tensor) -> torch.Tensor:
    return last_hidden_states(model, ids_BT)[:, :-1].flatten(0, 1)


def _log_probs(model: PreTrainedModel, hidden_ND: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(model.get_output_embeddings()(hidden_ND).float(), dim=-1)


def _vocab_size(model: PreTrainedModel) -> int:
    return len(output_head(model))
