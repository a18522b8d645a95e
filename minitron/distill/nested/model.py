"""The largest student, its nested students and the teacher as one module whose output is the losses of a batch."""

# B sequences of a batch, T tokens a sequence, D hidden, N = B * T tokens, V vocabulary

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from minitron.distill.dataset import NOT_COUNTED
from minitron.distill.loss.chunked import DEFAULT_CHUNK_TOKENS, distillation_loss
from minitron.distill.loss.inputs import LossScope
from minitron.distill.loss.objective import DenseTargets, Objective, Targets
from minitron.distill.nested.slices import SlicedStudent
from minitron.distill.nested.students import TrainedStudent
from minitron.distill.teachers.teacher import Teacher
from minitron.distill.training.autocast import autocast_without_copies
from minitron.distill.training.model import DistillationModel
from minitron.runtime.backbone import last_hidden_states, output_head


class NestedDistillationModel(DistillationModel):
    """The largest student, whose weights are trained and saved, and students that are run on slices of them.

    Args:
        student: The largest student.
        teacher: What all learn from.
        objective: What is minimized, of each student on its own sequences.
        nested: The smaller students.
        chunk_tokens: Tokens whose logits are held at once.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: Teacher | None,
        objective: Objective,
        *,
        nested: Sequence[TrainedStudent],
        chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
    ) -> None:
        super().__init__(student, teacher, objective, chunk_tokens=chunk_tokens)
        self._weights = (1.0, *(one.student.weight for one in nested))
        self._shares = (1, *(one.student.share for one in nested))
        self._sliced = tuple(SlicedStudent(student, one) for one in nested)

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        index: torch.Tensor,
        targets: Targets | None = None,
        student: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[4] sums over the counted tokens, as `PARTS` names them; the first is differentiable.

        Args:
            input_ids: [B, T] token ids.
            labels: [B, T] next tokens, -100 where a token does not count.
            index: [B] positions of the sequences in the phase's text.
            targets: The teacher's, where they are known.
            student: [B] which student each sequence trains: 0 the largest, then the nested ones in their order. None
                runs all of them on all sequences, each for its share of the training.
        """
        (teacher,) = self._teacher
        if targets is None and teacher is not None:
            targets = teacher.targets(input_ids, index)
        shared = self.student.state_dict(keep_vars=True)
        parts = []
        for number in sorted(set(student.tolist())) if student is not None else range(len(self._weights)):
            chosen_B = torch.ones_like(index, dtype=torch.bool) if student is None else student == number
            share = 1.0 if student is not None else self._shares[number] / sum(self._shares)
            with autocast_without_copies(input_ids.device):
                if number == 0:
                    hidden_BTD = last_hidden_states(self.student, input_ids[chosen_B])
                    head_VD = output_head(self.student)
                else:
                    sliced = self._sliced[number - 1]
                    hidden_BTD, head_VD = sliced.last_hidden(shared, input_ids[chosen_B], training=self.training)
            labels_N = labels[chosen_B].flatten()
            tokens_N = chosen_B[:, None].expand_as(labels).flatten().nonzero().squeeze(1)
            losses = distillation_loss(
                hidden_BTD.flatten(0, 1),
                head_VD,
                None if targets is None else rows_of(targets, tokens_N),
                self._objective,
                LossScope(labels_N=labels_N, mask_N=labels_N != NOT_COUNTED, vocab_size=self._vocab_size),
                chunk_tokens=self._chunk_tokens,
            )
            none = torch.zeros_like(losses.divergence)
            weighted = self._weights[number] * losses.total
            parts.append(share * torch.stack([weighted, losses.divergence, losses.cross_entropy, none]))
        return torch.stack(parts).sum(dim=0)


def rows_of(targets: Targets, tokens_N: torch.Tensor) -> Targets:
    """The targets of some of the tokens."""
    if isinstance(targets, DenseTargets):
        return replace(targets, hidden_ND=targets.hidden_ND[tokens_N.to(targets.hidden_ND.device)])
    return targets.rows(tokens_N.to(targets.ids_NK.device))
