"""Distillation of a student on packed text, in place: what one phase of a curriculum, or a run without one, does."""

# N sequences, T tokens

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, PlainValidator
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.data.masks import PackedSequences
from minitron.distill.dataset import collate
from minitron.distill.loss.objective import Objective
from minitron.distill.nested.model import NestedDistillationModel
from minitron.distill.nested.students import TrainedStudent
from minitron.distill.settings import AUTO, TrainingSettings
from minitron.distill.sharding import shard_blocks
from minitron.distill.teachers.teacher import Teacher
from minitron.distill.training.arguments import training_arguments
from minitron.distill.training.callbacks import DivergenceCallback, ProgressCallback, StopCallback
from minitron.distill.training.model import DistillationModel, HiddenMatch
from minitron.distill.training.parts import computing_on, text_part
from minitron.distill.training.record import DistillRecord
from minitron.distill.training.resumed import check_record, load_finished
from minitron.distill.training.sequences import training_sequences
from minitron.distill.training.states import last_whole_state, step_of
from minitron.distill.training.trainer import DistillationTrainer, DivergedError
from minitron.distill.training.validation import ValidationText
from minitron.distill.training.watch import Watch
from minitron.distributed import Ranks
from minitron.errors import MinitronError
from minitron.progress import progress_bar
from minitron.runtime.backbone import blocks_of
from minitron.runtime.float8 import multiply_as_before, multiply_in_float8, require_float8
from minitron.runtime.shards import read_weights

logger = logging.getLogger(__name__)


_AS_IT_IS = PlainValidator(lambda value: value)  # values that check themselves when they are made


class DistillSettings(TrainingSettings):
    """How to distill: training's settings, and what is minimized."""

    objective: Annotated[Objective, _AS_IT_IS] = Field(default_factory=Objective, description="What is minimized.")
    hidden: Annotated[HiddenMatch | None, _AS_IT_IS] = Field(
        default=None, description="A loss on hidden states beside it."
    )
    nested: Annotated[tuple[TrainedStudent, ...], _AS_IT_IS] = Field(
        default=(), description="Smaller students that are slices of the one that is trained, and train with it."
    )

    @property
    def next_tokens(self) -> bool:
        """Whether what is minimized needs every position's next token."""
        return self.objective.cross_entropy > 0

    @property
    def shares(self) -> tuple[int, ...]:
        """Share of the steps of each student that trains, the largest one first; empty for one student."""
        return (1, *(one.student.share for one in self.nested)) if self.nested else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """Where and by whom a phase is trained, and how far in this call.

    Attributes:
        state_folder: Where the resumable state lies.
        seed: Seed of all that is random.
        stop_after_tokens: Stop after so many of the phase's tokens and save the state; a later call resumes there.
        ranks: The processes that take part; this one alone when None.
        weights: The checkpoint that a student on torch's meta device is read from once it is in shards; None where it
            has its weights.
        callbacks: Trainer's, of whoever wants to watch.
    """

    state_folder: Path
    seed: int
    stop_after_tokens: int | None = None
    ranks: Ranks | None = None
    weights: Checkpoint | None = None
    callbacks: Sequence[TrainerCallback] = ()

    def last_step(self, max_steps: int, tokens_per_step: int) -> int:
        """The step of the schedule that this call ends with."""
        if self.stop_after_tokens is None:
            return max_steps
        return min(max_steps, max(1, self.stop_after_tokens // tokens_per_step))


def distill(
    student: PreTrainedModel,
    teacher: Teacher | None,
    sequences_NT: PackedSequences,
    settings: DistillSettings,
    run: TrainingRun,
    validation: ValidationText | None = None,
) -> DistillRecord:
    """Trains the student on the sequences in their order, in place.

    State is saved in `run.state_folder` as set; a call that finds a state there resumes from it, data order included.
    Sharded weights stay shards. With validation text the student ends as the best state that
    was measured, where `settings.keep` says so; a loss that stops being finite ends the training there.

    Args:
        student: What is trained.
        teacher: What it learns from; None where the objective has no divergence.
        sequences_NT: Sequences of the whole phase, which set its schedule.
        settings: How to distill.
        run: Where, by whom and how far.
        validation: What the training is watched by; without it the last weights are kept.

    Raises:
        DivergedError: The loss stops being finite, and no best state is kept.
        MinitronError: There are fewer sequences than one batch, the batch or its sequences cannot be shared out, a
            learning rate is to be searched for without validation text, or the device has no products in fp8.
    """
    ranks = run.ranks or Ranks(student.device.type)
    if len(sequences_NT) < settings.batch_size:
        raise MinitronError(
            f"distillation needs at least one batch of {settings.batch_size} sequences, got {len(sequences_NT)}"
        )
    if validation is None and settings.learning_rate == AUTO:
        raise MinitronError("learning_rate: auto needs validation text to measure rates on; give a number without it")
    max_steps = len(sequences_NT) * settings.epochs // settings.batch_size
    tokens_per_step = settings.batch_size * sequences_NT.shape[1]
    last_step = run.last_step(max_steps, tokens_per_step)
    part = text_part(student, ranks, settings, sequences_NT.shape[1])
    dataset = training_sequences(
        sequences_NT, settings, part, seed=run.seed, next_tokens=settings.next_tokens, shares=settings.shares
    )
    trainer = _trainer(student, teacher, dataset, settings, run, max_steps)
    started = time.monotonic()
    with computing_on(part, student, teacher, None if validation is None else validation.teacher):
        watch = None if validation is None else Watch(trainer, validation, settings, run.state_folder, ranks, part)
        rate = None if watch is None else watch.set_rate(settings)
        history = _train(trainer, watch, run.state_folder, last_step=last_step, ranks=ranks)
        found = None if watch is None else watch.finish(history, last_step=last_step, tokens_per_step=tokens_per_step)
    _end(student, settings)
    record = DistillRecord(
        curve=tuple(
            (int(entry["step"]) * tokens_per_step, float(entry["loss"])) for entry in history if "loss" in entry
        ),
        tokens=last_step * tokens_per_step,
        seconds=time.monotonic() - started,
        validation=found,
        rate=rate,
    )
    logger.info("distilled on %d tokens in %.1f s", record.tokens, record.seconds)
    return record


def _end(student: PreTrainedModel, settings: DistillSettings) -> None:
    if settings.precision == "fp8" and settings.sharding != "fsdp2":  # shards are bound to the layers that they are of
        multiply_as_before(student)
    student.eval()


def _trainer(
    student: PreTrainedModel,
    teacher: Teacher | None,
    dataset: Dataset[dict[str, torch.Tensor]],
    settings: DistillSettings,
    run: TrainingRun,
    max_steps: int,
) -> DistillationTrainer:
    ranks, sharded = run.ranks or Ranks(student.device.type), settings.sharding == "fsdp2"
    model = _module(student, teacher, settings)
    if settings.gradient_checkpointing:
        student.activation_checkpointing_enable({"use_reentrant": False}, offload=settings.offload_activations)
    if settings.precision == "fp8":
        require_float8(ranks.device)
        multiply_in_float8(student)
    if sharded:
        shard_blocks(model, blocks_of(student), device=ranks.device)
    if student.device.type == "meta":
        assert run.weights is not None, "a student without weights is read from a checkpoint"
        read_weights(student, run.weights, device=ranks.device)
    trainer = DistillationTrainer(
        model=model,
        sharded=sharded,
        args=training_arguments(
            settings,
            run.state_folder,
            max_steps=max_steps,
            ranks=ranks,
            seed=run.seed,
            # A smaller student leaves blocks of the largest one without gradient.
            routed=_is_routed(student) or bool(settings.nested),
        ),
        train_dataset=dataset,
        data_collator=collate,
        callbacks=list(run.callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _module(student: PreTrainedModel, teacher: Teacher | None, settings: DistillSettings) -> DistillationModel:
    objective, chunk_tokens = settings.objective, settings.chunk_tokens
    if settings.nested:
        if settings.context_parallel > 1:
            raise MinitronError("nested students train on slices of shared weights, which context_parallel cannot have")
        return NestedDistillationModel(student, teacher, objective, nested=settings.nested, chunk_tokens=chunk_tokens)
    return DistillationModel(student, teacher, objective, hidden=settings.hidden, chunk_tokens=chunk_tokens)


def _is_routed(student: PreTrainedModel) -> bool:
    return "moe" in getattr(student.config, "layers_block_type", ())


def _train(
    trainer: DistillationTrainer, watch: Watch | None, state_folder: Path, *, last_step: int, ranks: Ranks
) -> list[dict[str, float]]:
    ranks.barrier()  # so that all find the same states
    state = last_whole_state(state_folder, sharded=trainer.sharded)
    if state is not None and step_of(state) >= last_step:
        return load_finished(trainer.model, state, sharded=trainer.sharded)
    if state is not None:
        check_record(state)
    with progress_bar() as progress:
        if ranks.is_main:
            trainer.add_callback(ProgressCallback(progress, progress.add_task("distill", total=last_step)))
        if watch is not None:
            trainer.add_callback(watch.callback)
        if last_step < trainer.args.max_steps:
            trainer.add_callback(StopCallback(last_step))
        trainer.add_callback(DivergenceCallback())
        try:
            trainer.train(resume_from_checkpoint=None if state is None else str(state))
        except DivergedError:
            if watch is None or not watch.survives(trainer.state.log_history):
                raise
    history: list[dict[str, float]] = trainer.state.log_history
    return history
