"""The phases of training in a run: what each trains, for how long, and its setup on given devices."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from minitron.dry_run.shapes import Shapes
from minitron.errors import MinitronError
from minitron.estimate.training.operations import PhaseLength, phase_length, training_operations
from minitron.estimate.training.setup import TrainingSetup
from minitron.models.shape import HybridShape
from minitron.recipe.distill import DistillSection, TrainSection
from minitron.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A phase of training in a run.

    Attributes:
        stage: The pipeline's stage.
        name: The phase; empty where there is no curriculum.
        section: Its settings.
        student: What is trained.
        teacher: What it learns from; None for a fine-tuning.
    """

    stage: str
    name: str
    section: TrainSection
    student: HybridShape
    teacher: HybridShape | None

    @property
    def mode(self) -> str | None:
        """Where the teacher's distributions come from; None without a teacher."""
        return self.section.teacher.mode if isinstance(self.section, DistillSection) else None

    @property
    def length(self) -> PhaseLength:
        """Sequences and steps."""
        section = self.section
        return phase_length(
            section.tokens or 0, seq_len=section.seq_len, batch_size=section.batch_size, epochs=section.epochs
        )

    def operations(self) -> int:
        """Operations of the whole phase."""
        taught = self.teacher if self.mode in ("online", "layerwise") else None
        a_token = training_operations(
            self.student, self.section.seq_len, teacher=taught, checkpointing=self.section.gradient_checkpointing
        )
        return self.length.trained_tokens * a_token

    def setup(self, count: int) -> TrainingSetup:
        """How it is trained on so many devices.

        Raises:
            MinitronError: The batch cannot be divided among them, or they do not suit the sharding or the teacher.
        """
        section = self.section
        taught = section.teacher if isinstance(section, DistillSection) else None
        return TrainingSetup(
            seq_len=section.seq_len,
            micro_batch_size=self._micro_batch_size(count),
            devices=count,
            context_parallel=section.context_parallel,
            sharded=section.sharding == "fsdp2",
            checkpointing=section.gradient_checkpointing,
            offloaded=section.offload_activations,
            weights_dtype=section.weights_dtype,
            precision=section.precision,
            optim=section.optim,
            chunk_tokens=section.chunk_tokens,
            teacher_mode=self.mode,
            teacher_dtype="fp32" if taught is None else taught.dtype,
            window_sequences=0 if taught is None else taught.window_sequences,
        )

    @property
    def where(self) -> str:
        """The section's name in the recipe."""
        section = {"correct": "correct_teacher", "depth_distill": "depth_first.distill"}.get(self.stage, self.stage)
        return f"{section}.phases.{self.name}" if self.name else section

    def _micro_batch_size(self, count: int) -> int:
        section = self.section
        if section.sharding == "fsdp2" and count == 1:
            raise MinitronError(
                f"{self.where}.sharding=fsdp2 needs several devices, got 1; raise devices.gpus_per_node or use ddp"
            )
        if self.mode == "layerwise" and count > 1:
            raise MinitronError("a layerwise teacher takes one process; in several use a cached or an online one")
        if count % section.context_parallel:
            raise MinitronError(
                f"{self.where}.context_parallel must divide the devices, {count}, got {section.context_parallel}"
            )
        groups = count // section.context_parallel
        share, remainder = divmod(section.batch_size, groups)
        micro = section.micro_batch_size or share
        if remainder or share % micro:
            whose = "devices" if section.context_parallel == 1 else "groups of devices"
            raise MinitronError(
                f"{self.where}.batch_size must be a multiple of {groups} {whose} times the micro batch, got "
                f"{section.batch_size} sequences and a micro batch of {micro}"
            )
        return micro


def trainings(recipe: Recipe, shapes: Shapes) -> Iterator[Training]:
    """The phases of training of a recipe, in order."""
    teacher = shapes.teacher
    if recipe.correct_teacher is not None:
        yield Training(stage="correct", name="", section=recipe.correct_teacher, student=teacher, teacher=None)
    if recipe.depth_first is not None:
        yield from _curriculum("depth_distill", recipe.depth_first.distill, shapes.source, teacher)
    yield from _curriculum("distill", recipe.distill, shapes.student, teacher)


def rounds_tokens(recipe: Recipe, candidates: int) -> int:
    """Tokens that a tournament trains on, all candidates and rounds together."""
    before = total = 0
    for tokens in recipe.search.tournament.tokens:
        total += candidates * (tokens - before)
        before, candidates = tokens, max(1, math.ceil(candidates * recipe.search.tournament.keep))
    return total


def _curriculum(stage: str, section: DistillSection, student: HybridShape, teacher: HybridShape) -> Iterator[Training]:
    names = section.phase_names if section.phases else ("",)
    for name, phase in zip(names, section.curriculum, strict=True):
        yield Training(stage=stage, name=name, section=phase, student=student, teacher=teacher)
