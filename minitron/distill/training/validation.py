"""Validation text: the loss that is trained, measured on sequences that are never trained on."""

# K sequences of validation text, T tokens a sequence, D hidden of the teacher

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch

from minitron.data.masks import PackedSequences
from minitron.distill.dataset import NOT_COUNTED, SequenceDataset, collate
from minitron.distill.loss.objective import DenseTargets, Targets
from minitron.distill.sharding import let_go
from minitron.distill.teachers.cached import CachedTeacher
from minitron.distill.teachers.layerwise import LayerwiseTeacher
from minitron.distill.teachers.teacher import Teacher
from minitron.distill.training.model import DistillationModel
from minitron.distill.training.parts import cut_sample, require_length
from minitron.distributed import Ranks
from minitron.errors import DataError
from minitron.runtime.context_parallel.part import TextPart

HELD_BYTES = 2**30  # of the teacher's hidden states, in each process
MOST_MEASUREMENTS = 20
SHARE_OF_TRAINING = 0.05
FORWARD_SHARE = 0.25  # of a training step of as many sequences, whose teacher and backward pass are left out


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationText:
    """Text that a training is watched by.

    Attributes:
        sequences_NT: Its sequences.
        teacher: The teacher on them; None where the objective has no divergence.
    """

    sequences_NT: PackedSequences
    teacher: Teacher | None


def steps_between(sequences: int, *, max_steps: int, batch_size: int) -> int:
    """Optimizer steps between measurements, so many that these take a twentieth of the training, at most 20 times.

    >>> steps_between(32, max_steps=384, batch_size=4), steps_between(32, max_steps=384, batch_size=128)
    (40, 20)
    """
    steps_a_measurement = FORWARD_SHARE * sequences / batch_size
    return max(math.ceil(max_steps / MOST_MEASUREMENTS), math.ceil(steps_a_measurement / SHARE_OF_TRAINING))


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPasses:
    """How a model is run on validation text.

    Attributes:
        batch_size: Sequences of one forward pass.
        part: What this process holds of each sequence.
        sharded: The models' weights are shards.
        autocast: What forward passes run in.
    """

    batch_size: int
    part: TextPart
    sharded: bool
    autocast: Callable[[], AbstractContextManager[object]]


class Validation:
    """Measures a model on validation text; each process measures its share of the sequences, or its part of them.

    The measure is the objective without a loss on hidden states: for the default one the KL to the teacher over the
    whole vocabulary, in nats a token. An online teacher's hidden states are computed once where they take up to a GiB
    (K / processes * T * D * 4 bytes), a layerwise one's always; those of shards and of a cache are asked for each time.

    Args:
        text: The text.
        model: What is measured, with the objective.
        ranks: The processes.
        passes: How it is run.

    Raises:
        DataError: No token of the text counts.
        MinitronError: Its sequences are of another length than those that the processes hold parts of.
    """

    def __init__(
        self,
        text: ValidationText,
        model: DistillationModel,
        ranks: Ranks,
        passes: ForwardPasses,
    ) -> None:
        self._text, self._model, self._ranks, self._passes = text, model, ranks, passes
        require_length(passes.part, text.sequences_NT.shape[1])
        self._samples = SequenceDataset(text.sequences_NT, next_tokens=model.reads_next_tokens)
        self._held: list[Targets] | None = None
        self._holds = not passes.sharded and text.teacher is not None and not isinstance(text.teacher, CachedTeacher)
        labels = (self._samples[index]["labels"] for index in range(len(self._samples)))
        self.tokens = sum(int((labels_T != NOT_COUNTED).sum()) for labels_T in labels)
        if self.tokens == 0:
            raise DataError("validation text must have tokens that count, these sequences have no answer")

    @torch.no_grad()
    def loss(self) -> float:
        """Mean over the counted tokens of the whole text, the same in every process; inf where it is not finite.

        All processes must call it.
        """
        total = torch.zeros((), dtype=torch.float64)
        was_training = self._model.training
        self._model.eval()
        with self._passes.autocast():
            for number, batch in enumerate(self._batches()):
                total += float(self._model(**batch, targets=self._targets(number, batch))[0])
        self._model.train(was_training)
        let_go(self._model)  # gathered weights would outlive a change of the shards
        mean = float(self._ranks.sum(total)) / self.tokens
        return mean if math.isfinite(mean) else math.inf

    def _batches(self) -> Iterator[dict[str, torch.Tensor]]:
        # Each process makes as many passes, since shards are gathered by all; what is left over counts nothing.
        group, part = self._passes.part.group, self._passes.part
        own = range(group.data_rank, len(self._samples), group.data_size)
        share = math.ceil(len(self._samples) / group.data_size)
        device = next(self._model.parameters()).device
        for start in range(0, share, self._passes.batch_size):
            rows = [self._samples[index] for index in own[start : start + self._passes.batch_size]]
            if not rows:
                rows = [{**self._samples[0], "labels": torch.full_like(self._samples[0]["labels"], NOT_COUNTED)}]
            yield {name: tensor.to(device) for name, tensor in collate([cut_sample(row, part) for row in rows]).items()}

    def _targets(self, number: int, batch: dict[str, torch.Tensor]) -> Targets | None:
        teacher = self._text.teacher
        if teacher is None:
            return None
        if self._held is not None and number < len(self._held):
            return _moved(self._held[number], batch["input_ids"].device)
        targets = teacher.targets(batch["input_ids"], batch["index"])
        if self._holds:
            self._hold(targets)
        return targets

    def _hold(self, targets: Targets) -> None:
        assert isinstance(targets, DenseTargets)
        part = self._passes.part
        batches = math.ceil(len(self._samples) / part.group.data_size / self._passes.batch_size)
        # Of the longest part: processes of a group run the teacher together, or none of them does.
        a_batch = targets.hidden_ND.nbytes // part.tokens * max(part.lengths)
        self._holds = isinstance(self._text.teacher, LayerwiseTeacher) or a_batch * batches <= HELD_BYTES
        if self._holds:
            self._held = [*(self._held or ()), replace(targets, hidden_ND=targets.hidden_ND.cpu())]


def _moved(targets: Targets, device: torch.device) -> Targets:
    assert isinstance(targets, DenseTargets)
    return replace(targets, hidden_ND=targets.hidden_ND.to(device))
