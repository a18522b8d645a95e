"""Measures checkpoints that are larger than memory: one block of one model is held at a time."""

import logging
import shutil
from pathlib import Path

import numpy as np

from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.checkpoints.finite import naming_weights
from minitron.data.masks import PackedText
from minitron.data.token_ids import require_model_ids
from minitron.distributed import Ranks
from minitron.evaluate.layerwise import TextStates, evaluate_states, run_text
from minitron.evaluate.metrics import Metrics
from minitron.models.axes import Indices
from minitron.pipeline.evaluating.plan import EvaluationPlan, EvaluationTeacher
from minitron.pipeline.evaluation import held_out_text, text_metrics
from minitron.runtime.loading import load_tokenizer
from minitron.runtime.stack import LayerwiseStack
from minitron.runtime.vocabulary import restricted_stack

logger = logging.getLogger(__name__)

TEACHER_FOLDER, STUDENT_FOLDER = "teacher", "student"


class LayerwiseEvaluation:
    """Loss, bits a byte and KL; neither speed nor a task, which whole models generate.

    Hidden states lie in files. The teacher's are kept, so that it runs once for all students of one text. Of several
    processes each reads all blocks and takes its share of the sequences through them.

    Args:
        plan: What is measured.
        teacher: What the KL is to; None leaves it out.
        folder: Where hidden states lie; the caller removes it.
    """

    def __init__(self, plan: EvaluationPlan, teacher: EvaluationTeacher | None, folder: Path) -> None:
        self._plan, self._folder = plan, folder
        self._source = teacher
        self._teacher = None if teacher is None else open_checkpoint(teacher.folder)
        self._taught: TextStates | None = None
        logger.info("layerwise: loss, bits a byte and KL are measured, speed and a task are not")

    def measure(self, folder: Path) -> Metrics:
        """Metrics of a checkpoint, one of its blocks in memory at a time."""
        checkpoint, tokenizer = open_checkpoint(folder), load_tokenizer(folder)
        execution = self._plan.execution
        sequences_NT = held_out_text(self._plan.section, tokenizer, seed=execution.seed)
        require_model_ids(sequences_NT, tokenizer, self._shared_rows(checkpoint))
        own_NT = own_share(sequences_NT, self._plan.ranks)
        models = [checkpoint] if self._teacher is None else [checkpoint, self._teacher]
        with naming_weights(*models):
            taught = None if self._source is None else self._teach(self._source, own_NT)
            if self._source is not None and self._source.kept is None and folder == self._source.folder:
                states = taught
            else:
                states = self._run(checkpoint, None, own_NT, STUDENT_FOLDER)
            assert states is not None
            text = evaluate_states(states, teacher=taught, ranks=self._plan.ranks)
        return text_metrics(checkpoint, self._plan.workload, text, sequences_NT, tokenizer)

    def _teach(self, source: EvaluationTeacher, sequences_NT: PackedText) -> TextStates:
        """The teacher's states on a text, kept from the checkpoint before where its text was the same."""
        assert self._teacher is not None
        if self._taught is None or not _same(self._taught.sequences_NT, sequences_NT):
            self._taught = self._run(self._teacher, source.kept, sequences_NT, TEACHER_FOLDER)
        return self._taught

    def _run(self, checkpoint: Checkpoint, kept: Indices | None, sequences_NT: PackedText, name: str) -> TextStates:
        device, dtype, ranks = self._plan.execution.device, self._plan.dtype, self._plan.ranks
        folder = self._folder / f"{name}-{ranks.rank}"
        if kept is None:
            stack = LayerwiseStack(checkpoint, device=device, dtype=dtype)
        else:
            stack = restricted_stack(checkpoint, kept, device=device, dtype=dtype)
        shutil.rmtree(folder, ignore_errors=True)
        return run_text(stack, sequences_NT, folder=folder)

    def _shared_rows(self, checkpoint: Checkpoint) -> int:
        rows = [checkpoint.shape.vocab_size]
        if self._source is not None and self._teacher is not None:
            kept = self._source.kept
            rows.append(self._teacher.shape.vocab_size if kept is None else len(kept))
        return min(rows)


def own_share(sequences_NT: PackedText, ranks: Ranks) -> PackedText:
    """This process's sequences of a text."""
    return sequences_NT.taken(np.arange(ranks.rank, len(sequences_NT), ranks.world_size))


def _same(one: object, other: PackedText) -> bool:
    return (
        isinstance(one, PackedText)
        and np.array_equal(one.ids_NT, other.ids_NT)
        and np.array_equal(one.all_counted(), other.all_counted())
    )
