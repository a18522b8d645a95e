"""The sequences of a phase as Trainer takes them: in their order, as parts, or with the student that each trains."""

# N sequences, T tokens

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from minitron.data.masks import PackedSequences
from minitron.distill.dataset import SequenceDataset
from minitron.distill.nested.schedule import ScheduledSequences
from minitron.distill.settings import TrainingSettings
from minitron.distill.training.parts import PartSequences
from minitron.runtime.context_parallel.part import TextPart


def training_sequences(
    sequences_NT: PackedSequences,
    settings: TrainingSettings,
    part: TextPart,
    *,
    seed: int,
    next_tokens: bool,
    shares: Sequence[int],
) -> Dataset[dict[str, torch.Tensor]]:
    """What Trainer asks for a phase's samples.

    Args:
        sequences_NT: All sequences of the phase, for one epoch.
        settings: Epochs and batches.
        part: What this process holds of each sequence.
        seed: Seed of the order in later epochs.
        next_tokens: Whether every position's next token is needed, the last one's, too.
        shares: Share of the steps of each student that trains; empty for one student.
    """
    sequences = SequenceDataset(sequences_NT, epochs=settings.epochs, seed=seed, next_tokens=next_tokens)
    if part.group.size > 1:
        return PartSequences(
            sequences,
            part,
            micro_batch_size=settings.micro_batch_size or settings.batch_size // part.group.data_size,
            num_sequences=len(sequences) // settings.batch_size * settings.batch_size,
        )
    return ScheduledSequences(sequences, shares) if shares else sequences
