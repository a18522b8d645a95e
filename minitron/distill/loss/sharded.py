"""The distillation loss where each process holds some rows of both heads (tensor-parallel heads)."""

# N tokens, V rows of the vocabulary that are here, D hidden

from typing import Any

import torch

from minitron.distill.loss.chunked import DEFAULT_CHUNK_TOKENS, Losses, check_inputs, compute_losses
from minitron.distill.loss.objective import DenseTargets, Objective
from minitron.distill.loss.vocabulary import ShardedVocabulary
from minitron.errors import MinitronError


def sharded_loss(
    student_hidden_ND: torch.Tensor,
    student_head_VD: torch.Tensor,
    targets: DenseTargets | None,
    objective: Objective,
    *,
    group: Any = None,
    labels_N: torch.Tensor | None = None,
    mask_N: torch.Tensor | None = None,
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
) -> Losses:
    """The losses of `distillation_loss`, the same in every process, from heads of which each process holds rows.

    Hidden states, labels and mask are the same in every process. The gradient of the hidden states is the whole one
    in each; that of the head is the shard's. No logits are exchanged: a token costs a few numbers.

    Args:
        student_hidden_ND: Student's last hidden states.
        student_head_VD: Consecutive rows of the student's head, in the order of the processes.
        targets: Teacher's hidden states and the same rows of its head; None where the objective has no divergence.
        objective: What is minimized.
        group: The processes; all when None.
        labels_N: Next tokens, where the objective has a cross-entropy.
        mask_N: Which tokens count; all when None.
        chunk_tokens: Tokens whose logits are held at once.

    Raises:
        MinitronError: The shards of teacher and student differ in their rows, or something is missing.
    """
    check_inputs(student_hidden_ND, targets, objective, labels_N=labels_N, mask_N=mask_N, chunk_tokens=chunk_tokens)
    if targets is not None and len(targets.head_VD) != len(student_head_VD):
        raise MinitronError(
            f"the shards must be of the same rows, got {len(student_head_VD)} of the student's head and "
            f"{len(targets.head_VD)} of the teacher's"
        )
    vocabulary = ShardedVocabulary(len(student_head_VD), group=group, device=student_head_VD.device)
    return compute_losses(
        student_hidden_ND,
        student_head_VD,
        targets,
        objective,
        labels_N=labels_N if objective.cross_entropy else None,
        mask_N=mask_N,
        chunk_tokens=chunk_tokens,
        vocabulary=vocabulary,
    )
