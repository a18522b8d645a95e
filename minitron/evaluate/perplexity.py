"""Loss of a model on held-out text, and its KL divergence from the teacher."""

# N tokens that count, T tokens, B sequences of a batch, D hidden, V vocabulary

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from minitron.data.masks import PackedSequences, loss_mask
from minitron.distributed import Ranks
from minitron.errors import DataError, NotFiniteError
from minitron.evaluate.teacher_states import Batch, TeacherStates
from minitron.progress import track
from minitron.runtime.backbone import output_head
from minitron.runtime.stack import HEAD_ROWS

# Logits of this many tokens are held at once.
CHUNK_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEvaluation:
    """Means over held-out tokens, in nats: cross-entropy, and KL(teacher || model) where a teacher was given."""

    loss: float
    kl_to_teacher: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSums:
    """The same as sums over some of the tokens, and their number."""

    loss: float
    kl: float | None
    tokens: int

    def over(self, ranks: Ranks) -> "TextSums":
        """The sums over the tokens of all processes."""
        own = torch.tensor([self.loss, self.kl or 0.0, self.tokens], dtype=torch.float64)
        loss, kl, tokens = ranks.sum(own).tolist()
        return TextSums(loss=loss, kl=None if self.kl is None else kl, tokens=int(tokens))

    def mean(self) -> TextEvaluation:
        """Their means.

        Raises:
            DataError: No token counted.
            NotFiniteError: Loss or KL is not finite.
        """
        if self.tokens == 0:
            raise DataError("held-out text must have tokens that count, these sequences have no answer; set loss: all")
        kl = None if self.kl is None else self.kl / self.tokens
        found = TextEvaluation(loss=self.loss / self.tokens, kl_to_teacher=kl)
        for name, nats in (("loss", found.loss), ("KL to the teacher", found.kl_to_teacher)):
            if nats is not None and not math.isfinite(nats):
                raise NotFiniteError(f"the {name} on held-out text must be finite, it is {nats}: the model overflows")
        return found


def require_predictions(sequences_NT: PackedSequences) -> None:
    """Refuses sequences in which no token is predicted.

    Raises:
        DataError: A sequence has a single token.
    """
    if sequences_NT.shape[1] < 2:
        raise DataError(f"a sequence must have at least 2 tokens to be evaluated, got {sequences_NT.shape[1]}")


@torch.no_grad()
def evaluate_text(
    model: PreTrainedModel,
    sequences_NT: PackedSequences,
    *,
    teacher: PreTrainedModel | TeacherStates | None = None,
    batch_size: int = 8,
    ranks: Ranks | None = None,
) -> TextEvaluation:
    """Loss of a model on held-out sequences, and KL(teacher || model) on the same tokens.

    Logits, log-softmax and sums are in fp32, whatever the models are in. Of the tokens 1..T-1 of each sequence those
    that count are predicted; the KL covers the same positions. The loss is over all rows of the model's head, as in
    transformers. The KL is over the rows that both heads have: those beyond are padding, as in the distillation's loss.

    Args:
        model: The model.
        sequences_NT: The text.
        teacher: What the KL is to; None leaves it out.
        batch_size: Sequences that go through a model at once, at most.
        ranks: Processes that each hold the models and take every so many-th batch; all return the means over all of
            them. This one alone when None.

    Raises:
        DataError: A sequence has a single token, or no token counts.
        NotFiniteError: Loss or KL is not finite.
    """
    require_predictions(sequences_NT)
    taught = TeacherStates(teacher, most_bytes=0) if isinstance(teacher, PreTrainedModel) else teacher
    rows = _vocab_size(model) if taught is None else min(_vocab_size(model), _vocab_size(taught.model))
    loss_sum, kl_sum, tokens = 0.0, 0.0, 0
    ranks = ranks or Ranks.alone()
    batch_size = max(1, min(batch_size, -(-len(sequences_NT) // ranks.world_size)))  # so that each process has one
    starts = range(ranks.rank * batch_size, len(sequences_NT), ranks.world_size * batch_size)
    for start in track(starts, "evaluate text", total=len(starts)):
        batch = _batch(sequences_NT, slice(start, start + batch_size))
        targets_N = batch.targets(model.device)
        teacher_hidden_ND = None if taught is None else taught.hidden(batch, start)
        is_teacher = taught is not None and model is taught.model
        hidden_ND = teacher_hidden_ND if is_teacher and teacher_hidden_ND is not None else batch.hidden(model)
        for first in range(0, len(targets_N), CHUNK_TOKENS):
            chunk = slice(first, first + CHUNK_TOKENS)
            logits_NV = _logits(model, hidden_ND[chunk])
            log_q_NV = torch.log_softmax(logits_NV, dim=-1)
            loss_sum += float(F.nll_loss(log_q_NV, targets_N[chunk], reduction="sum"))
            if taught is not None and teacher_hidden_ND is not None:
                if rows < logits_NV.shape[1]:
                    log_q_NV = torch.log_softmax(logits_NV[:, :rows], dim=-1)
                log_p_NV = torch.log_softmax(_logits(taught.model, teacher_hidden_ND[chunk])[:, :rows], dim=-1)
                kl_sum += float((log_p_NV.exp() * (log_p_NV - log_q_NV)).sum())
        tokens += len(targets_N)
    sums = TextSums(loss=loss_sum, kl=None if taught is None else kl_sum, tokens=tokens)
    return sums.over(ranks).mean()


def _batch(sequences_NT: PackedSequences, rows: slice) -> Batch:
    return Batch(ids_BT=np.asarray(sequences_NT[rows], dtype=np.int32), counted_BT=loss_mask(sequences_NT, rows))


def _logits(model: PreTrainedModel, hidden_ND: torch.Tensor) -> torch.Tensor:
    if hidden_ND.dtype.itemsize >= 4:
        logits_NV: torch.Tensor = model.get_output_embeddings()(hidden_ND).float()
        return logits_NV
    # The product in bf16 would round logits to 8 bits, which a small KL is lost in.
    wide_ND = hidden_ND.float()
    return torch.cat([wide_ND @ rows_RD.float().T for rows_RD in torch.split(output_head(model), HEAD_ROWS)], dim=1)


def _vocab_size(model: PreTrainedModel) -> int:
    return len(output_head(model))
