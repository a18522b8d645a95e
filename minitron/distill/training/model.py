"""Student and teacher as one module whose output is the losses of a batch."""

# B sequences of a batch, T tokens a sequence, D hidden, N = B * T tokens

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.distill.dataset import NOT_COUNTED
from minitron.distill.loss.chunked import DEFAULT_CHUNK_TOKENS, distillation_loss
from minitron.distill.loss.hidden_states import HiddenLoss
from minitron.distill.loss.inputs import LossScope
from minitron.distill.loss.objective import Objective, Targets
from minitron.distill.teachers.cached import CachedTeacher
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.teachers.teacher import Teacher
from minitron.distill.training.autocast import autocast_without_copies
from minitron.distill.training.states import second_names
from minitron.errors import MinitronError
from minitron.runtime.backbone import blocks_of, last_hidden_states, output_head
from minitron.runtime.hooks import LatestActivation, collecting_outputs

# What the module gives, in this order; each is a sum over the counted tokens.
PARTS = ("loss", "divergence", "cross_entropy", "hidden")


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenMatch:
    """A loss on hidden states behind mapped blocks.

    Attributes:
        loss: The distance.
        weight: Weight of its mean over the pairs.
        pairs: (student's block, teacher's block).
        channels: The teacher's hidden channels that the student kept, in the student's order; None when all.
    """

    loss: HiddenLoss
    weight: float
    pairs: tuple[tuple[int, int], ...]
    channels: tuple[int, ...] | None = None


class DistillationModel(nn.Module):
    """Student and frozen teacher as one module.

    Being one module, it is what DDP and FSDP2 wrap, so that the student's gradients are synchronized. The
    teacher is held outside the module tree: it is neither trained nor saved.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: Teacher | None,
        objective: Objective,
        *,
        hidden: HiddenMatch | None = None,
        chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
    ) -> None:
        super().__init__()
        if (teacher is None) != (objective.divergence is None):
            raise MinitronError("a divergence needs a teacher, and a teacher is for a divergence")
        if hidden is not None and not isinstance(teacher, OnlineTeacher):
            raise MinitronError("hidden states are matched with a teacher in memory, give an online one")
        self.student = student
        self._teacher = (teacher,)
        self._objective = objective
        self._hidden = hidden
        self._chunk_tokens = chunk_tokens
        # Of a cache the rows that it is over; in memory both heads are seen, and the smaller one's count.
        self._vocab_size = None
        if isinstance(teacher, CachedTeacher):
            self._vocab_size = teacher.vocabulary_rows(len(output_head(student)))
        # What Trainer finds missing in a saved state on purpose: second names of tied tensors.
        self._keys_to_ignore_on_save = second_names(self.state_dict(keep_vars=True))

    def tie_weights(self) -> None:
        """Ties the student's head to its embeddings again, where they are one, after a state was loaded."""
        self.student.tie_weights()

    @property
    def reads_next_tokens(self) -> bool:
        """Whether the objective needs every position's next token."""
        return self._objective.cross_entropy > 0

    def forward(
        self, input_ids: torch.Tensor, labels: torch.Tensor, index: torch.Tensor, targets: Targets | None = None
    ) -> torch.Tensor:
        """[4] sums over the counted tokens, as `PARTS` names them; the first is differentiable.

        Args:
            input_ids: [B, T] token ids.
            labels: [B, T] next tokens, -100 where a token does not count.
            index: [B] positions of the sequences in the phase's text.
            targets: The teacher's, where they are known; hidden states are not matched then.
        """
        mask_N = (labels != NOT_COUNTED).flatten()
        pairs = self._hidden.pairs if self._hidden is not None and targets is None else ()
        (teacher,) = self._teacher
        teacher_blocks = teacher.blocks if isinstance(teacher, OnlineTeacher) else ()
        with collecting_outputs((layer, teacher_blocks[layer]) for _, layer in pairs) as teacher_states:
            if targets is None and teacher is not None:
                targets = teacher.targets(input_ids, index)
        student_blocks = blocks_of(self.student)
        collecting_student = collecting_outputs((layer, student_blocks[layer]) for layer, _ in pairs)
        with collecting_student as student_states, autocast_without_copies(input_ids.device):
            hidden_BTD = last_hidden_states(self.student, input_ids)
        losses = distillation_loss(
            hidden_BTD.flatten(0, 1),
            output_head(self.student),
            targets,
            self._objective,
            LossScope(labels_N=labels.flatten(), mask_N=mask_N, vocab_size=self._vocab_size),
            chunk_tokens=self._chunk_tokens,
        )
        distance = self._hidden_loss(student_states, teacher_states, mask_N) if pairs else None
        total, hidden = losses.total, torch.zeros_like(losses.divergence)
        if distance is not None and self._hidden is not None:
            total, hidden = total + self._hidden.weight * distance, distance.detach()
        return torch.stack([total, losses.divergence, losses.cross_entropy, hidden])

    def _hidden_loss(
        self,
        student_states: Mapping[int, LatestActivation],
        teacher_states: Mapping[int, LatestActivation],
        mask_N: torch.Tensor,
    ) -> torch.Tensor | None:
        match = self._hidden
        if match is None:
            return None
        distance = torch.zeros((), device=mask_N.device)
        for student_layer, teacher_layer in match.pairs:
            teacher_ND = teacher_states[teacher_layer].value.flatten(0, 1)
            if match.channels is not None:
                teacher_ND = teacher_ND[:, list(match.channels)]
            distance = distance + match.loss(student_states[student_layer].value.flatten(0, 1), teacher_ND, mask_N)
        return distance / len(match.pairs)
