"""Costs of training phases: operations, hours, and the memory of one device. Estimates."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from minitron.artifacts.json_files import JsonObject
from minitron.dry_run.training import Training
from minitron.estimate.devices import find_device
from minitron.estimate.training.memory import (
    TrainingBytes,
    longest_sequence,
    training_bytes,
    training_verdict,
    writing_bytes,
)
from minitron.estimate.training.operations import device_hours, forward_operations
from minitron.estimate.training.setup import TrainingSetup
from minitron.recipe.devices import DevicesSection
from minitron.recipe.distill import DistillSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Operations, and hours where devices are known.

    Attributes:
        operations: What is computed.
        gpu_hours: Hours of all devices together; None without devices.
        hours: Hours of the clock; None without devices.
    """

    operations: int
    gpu_hours: float | None
    hours: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """Estimated bytes on one device, and whether they fit.

    Attributes:
        parts: Bytes by what they hold.
        device_bytes: Memory that a process sees.
        longest_sequence_tokens: Tokens of the longest sequence that would fit; None where it was not looked for.
    """

    parts: TrainingBytes
    device_bytes: int
    longest_sequence_tokens: int | None = None

    @property
    def verdict(self) -> str:
        """`fits`, `tight` or `does not fit`."""
        return training_verdict(self.parts.total_bytes, self.device_bytes)

    def to_json(self) -> JsonObject:
        """As JSON."""
        found: JsonObject = {**asdict(self.parts), "device_bytes": self.device_bytes, "verdict": self.verdict}
        if self.longest_sequence_tokens is not None:
            found["longest_block_tokens"] = self.longest_sequence_tokens
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How a phase is optimized; see the recipe's settings of these names."""

    batch_size: int
    steps: int
    learning_rate: float | str
    min_learning_rate: float
    optim: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCost:
    """What a phase of training costs, or the writing of its teacher's cache.

    Attributes:
        stage: The pipeline's stage.
        name: The phase; empty where there is no curriculum.
        tokens: Tokens that are trained on or cached.
        seq_len: Tokens a sequence.
        cost: Operations and hours.
        schedule: None where nothing is trained.
        micro_batch_size: Sequences in one forward pass; None where nothing is trained or devices are not known.
        memory: Of one device; None without devices.
    """

    stage: str
    name: str
    tokens: int
    seq_len: int
    cost: Cost
    schedule: Schedule | None = None
    micro_batch_size: int | None = None
    memory: DeviceMemory | None = None

    def to_json(self) -> JsonObject:
        """As JSON; what is not known has no key."""
        found: JsonObject = {"stage": self.stage, "name": self.name, "tokens": self.tokens, "seq_len": self.seq_len}
        if self.schedule is not None:
            found |= asdict(self.schedule)
        if self.micro_batch_size is not None:
            found["micro_batch_size"] = self.micro_batch_size
        if self.memory is not None:
            found["memory"] = self.memory.to_json()
        return found | asdict(self.cost)


def phase_costs(trained: Sequence[Training], devices: DevicesSection | None) -> list[PhaseCost]:
    """Costs of every phase that is trained, then of the teacher's caches that are written for them."""
    cached = [training for training in trained if training.mode == "cached"]
    return [_training_cost(each, devices) for each in trained] + [_writing_cost(each, devices) for each in cached]


def cost_of(operations: int, devices: DevicesSection | None, *, processes: int | None = None) -> Cost:
    """Hours that operations take.

    Args:
        operations: What is computed.
        devices: The recipe's devices; no hours when None.
        processes: How many of them compute; all when None.
    """
    if devices is None:
        return Cost(operations=operations, gpu_hours=None, hours=None)
    hours = device_hours(operations, find_device(devices.gpu), mfu=devices.mfu)
    return Cost(operations=operations, gpu_hours=hours, hours=hours / (processes or devices.count))


def sum_costs(costs: Sequence[Cost]) -> Cost:
    """All costs together; hours only where each has them."""
    return Cost(
        operations=sum(cost.operations for cost in costs),
        gpu_hours=_sum([cost.gpu_hours for cost in costs]),
        hours=_sum([cost.hours for cost in costs]),
    )


def _sum(hours: Sequence[float | None]) -> float | None:
    known = [each for each in hours if each is not None]
    return sum(known) if len(known) == len(hours) else None


def _training_cost(training: Training, devices: DevicesSection | None) -> PhaseCost:
    section, length = training.section, training.length
    setup = None if devices is None else training.setup(devices.count)
    memory = None
    if devices is not None and setup is not None:
        device_bytes = find_device(devices.gpu).visible_bytes
        memory = DeviceMemory(
            parts=training_bytes(training.student, training.teacher, setup),
            device_bytes=device_bytes,
            longest_sequence_tokens=longest_sequence(training.student, training.teacher, setup, device_bytes),
        )
    return PhaseCost(
        stage=training.stage,
        name=training.name,
        tokens=length.trained_tokens,
        seq_len=section.seq_len,
        schedule=Schedule(
            batch_size=section.batch_size,
            steps=length.steps,
            learning_rate=section.learning_rate,
            min_learning_rate=section.min_learning_rate,
            optim=section.optim,
        ),
        micro_batch_size=None if setup is None else setup.micro_batch_size,
        memory=memory,
        cost=cost_of(training.operations(), devices),
    )


def _writing_cost(training: Training, devices: DevicesSection | None) -> PhaseCost:
    """A forward pass of the teacher over the phase's text."""
    section, teacher = training.section, training.teacher
    assert isinstance(section, DistillSection)
    assert teacher is not None
    memory = None
    if devices is not None:
        setup = TrainingSetup(
            seq_len=section.seq_len,
            micro_batch_size=section.micro_batch_size or 1,
            devices=devices.count,
            chunk_tokens=section.chunk_tokens,
            teacher_mode="layerwise" if section.teacher.layerwise else "online",
            teacher_dtype=section.teacher.dtype,
            weights_dtype="fp32" if section.teacher.layerwise else section.teacher.dtype,
            window_sequences=section.teacher.window_sequences,
        )
        memory = DeviceMemory(parts=writing_bytes(teacher, setup), device_bytes=find_device(devices.gpu).visible_bytes)
    return PhaseCost(
        stage="cache",
        name=training.name,
        tokens=training.length.packed_tokens,
        seq_len=section.seq_len,
        memory=memory,
        cost=cost_of(training.length.packed_tokens * forward_operations(teacher, section.seq_len), devices),
    )
