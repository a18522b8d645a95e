"""What the loss counts: labels, loss mask and vocabulary; and whether all inputs belong together."""

# N tokens, V vocabulary

from dataclasses import dataclass

import torch

from minitron.distill.loss.divergences.forward_kl import ForwardKL
from minitron.distill.loss.objective import DenseTargets, Objective, Targets, TopTargets
from minitron.errors import MinitronError


@dataclass(frozen=True, slots=True, kw_only=True)
class LossScope:
    """What the loss is taken over.

    Attributes:
        labels_N: Next tokens, where the objective has a cross-entropy.
        mask_N: Loss mask; all tokens count when None, masked tokens are skipped.
        vocab_size: Rows of both heads beyond it are padding; when None, what the smaller of the heads has.
    """

    labels_N: torch.Tensor | None = None
    mask_N: torch.Tensor | None = None
    vocab_size: int | None = None

    def counted(self, tokens: int) -> torch.Tensor | None:
        """Indices of the tokens that count; None when all of so many do."""
        if self.mask_N is None:
            return None
        counted = self.mask_N.nonzero().squeeze(1)
        return None if len(counted) == tokens else counted

    def rows(self, student_head_VD: torch.Tensor, targets: Targets | None) -> int:
        """Rows of the student's head that are the vocabulary.

        Raises:
            MinitronError: `vocab_size` is larger than one of the heads.
        """
        teacher = len(targets.head_VD) if isinstance(targets, DenseTargets) else len(student_head_VD)
        smaller = min(len(student_head_VD), teacher)
        if self.vocab_size is None:
            return smaller
        if not 1 <= self.vocab_size <= smaller:
            raise MinitronError(
                f"vocab_size must be at most what both heads have, {smaller}, and at least 1, got {self.vocab_size}"
            )
        return self.vocab_size


def check_inputs(tokens: int, targets: Targets | None, objective: Objective, scope: LossScope) -> None:
    """Refuses inputs that do not belong together.

    Args:
        tokens: The student's.
        targets: The teacher's targets.
        objective: What is minimized.
        scope: What the loss is taken over.

    Raises:
        MinitronError: Something is missing, or not of the student's tokens.
    """
    if (targets is None) != (objective.divergence is None):
        raise MinitronError("a divergence needs the teacher's targets, and targets need a divergence")
    drawn = isinstance(targets, TopTargets) and targets.drawn is not None
    if drawn and not isinstance(objective.divergence, ForwardKL):
        raise MinitronError("tokens drawn from the tail are for the forward KL, leave them out for another divergence")
    if objective.cross_entropy and scope.labels_N is None:
        raise MinitronError("a cross-entropy needs labels, none are given")
    rows = {"labels": scope.labels_N, "mask": scope.mask_N}
    if isinstance(targets, DenseTargets):
        rows["teacher"] = targets.hidden_ND
    elif targets is not None:
        rows["teacher"] = targets.ids_NK
    for name, tensor in rows.items():
        if tensor is not None and len(tensor) != tokens:
            raise MinitronError(
                f"teacher, student, labels and mask must be of the same tokens, got {tokens} of the student and "
                f"{len(tensor)} of the {name}"
            )
