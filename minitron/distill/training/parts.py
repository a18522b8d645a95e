"""Sequences shared out to processes that hold a part of each (context parallelism)."""

# T tokens of a whole sequence

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from minitron.distill.settings import TrainingSettings
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.teachers.teacher import Teacher
from minitron.distributed import Ranks
from minitron.errors import MinitronError
from minitron.runtime.context_parallel.part import TextPart, part_of
from minitron.runtime.context_parallel.split_model import on_part, tokens_read_before

Sample = dict[str, torch.Tensor]
BY_TOKEN = ("input_ids", "labels")  # what of a sample has an entry for each token


def cut_sample(sample: Sample, part: TextPart) -> Sample:
    """A part of a sample of T tokens; each label stays with its token, the next part's first one among them."""
    return {name: tensor[part.start : part.stop] if name in BY_TOKEN else tensor for name, tensor in sample.items()}


def require_length(part: TextPart, tokens: int) -> None:
    """Refuses sequences of another length than those that the processes hold parts of.

    Raises:
        MinitronError: They are.
    """
    if part.group.size > 1 and tokens != sum(part.lengths):
        raise MinitronError(
            f"with context_parallel validation text must have the training's {sum(part.lengths)} tokens a sequence, "
            f"got {tokens}"
        )


class PartSequences(Dataset[Sample]):
    """This process's part of each sequence, in the places where Trainer looks for this process's samples.

    Trainer deals out batches of positions to processes, one to each in turn. Here the batches of a group's processes
    stand for the same sequences, so that groups see the sequences that as many single processes would.

    Args:
        sequences: Whole sequences, by position.
        part: What this process holds of each.
        micro_batch_size: Sequences of a batch.
        num_sequences: Sequences of all steps.
    """

    def __init__(
        self, sequences: Dataset[Sample], part: TextPart, *, micro_batch_size: int, num_sequences: int
    ) -> None:
        self._sequences, self._part = sequences, part
        self._micro_batch_size, self._num_sequences = micro_batch_size, num_sequences

    def __len__(self) -> int:
        return self._num_sequences * self._part.group.size

    def __getitem__(self, position: int) -> Sample:
        group = self._part.group
        batch, row = divmod(position, self._micro_batch_size)
        turn, process = divmod(batch, group.data_size * group.size)
        # Parts of different sequences would be computed on as one: whoever deals otherwise must not go unseen.
        assert process == group.process(group.rank), f"process {group.process(group.rank)} was dealt {process}'s batch"
        whole = (turn * group.data_size + group.data_rank) * self._micro_batch_size + row
        return cut_sample(self._sequences[whole], self._part)


def text_part(student: PreTrainedModel, ranks: Ranks, settings: TrainingSettings, tokens: int) -> TextPart:
    """What this process holds of sequences of so many tokens; all of them without context parallelism.

    Raises:
        MinitronError: The processes make no whole groups, the sequences are too short, or the student's family does not
            split text.
    """
    group = ranks.context_group(settings.context_parallel)
    return part_of(group, tokens, at_least=[tokens_read_before(student)] if group.size > 1 else [])


@contextmanager
def computing_on(part: TextPart, student: PreTrainedModel, *teachers: Teacher | None) -> Iterator[None]:
    """Inside the `with` student and teachers compute on a part of each sequence, backward passes included.

    Raises:
        MinitronError: A teacher is not in memory, or of a family that does not split text.
    """
    if part.group.size == 1:
        yield
        return
    models = {id(student): student}
    for teacher in teachers:
        if teacher is None:
            continue
        if not isinstance(teacher, OnlineTeacher):
            raise MinitronError("context_parallel takes an online teacher, which is run on parts of sequences, too")
        models[id(teacher.model)] = teacher.model
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(on_part(model, part))
        yield
