"""What stages of training cost, as JSON holds it: operations, hours, and the memory of one device. Estimates."""

from dataclasses import asdict
from typing import Any

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


def describe_training(training: Training, devices: DevicesSection | None) -> dict[str, Any]:
    """One stage of training as JSON holds it; hours and memory only where the devices are known."""
    section, length = training.section, training.length
    found: dict[str, Any] = {
        "stage": training.stage,
        "name": training.name,
        "tokens": length.trained_tokens,
        "seq_len": section.seq_len,
        "batch_size": section.batch_size,
        "steps": length.steps,
        "learning_rate": section.learning_rate,
        "min_learning_rate": section.min_learning_rate,
        "optim": section.optim,
        "operations": training.operations(),
    }
    if devices is not None:
        setup = training.setup(devices.count)
        found["micro_batch_size"] = setup.micro_batch_size
        found |= _memory(training, setup, devices)
    return found | cost_of(training.operations(), devices)


def describe_writing(training: Training, devices: DevicesSection | None) -> dict[str, Any]:
    """The writing of the teacher's cache for one stage: a forward pass of the teacher over its text."""
    section, teacher = training.section, training.teacher
    assert isinstance(section, DistillSection)
    assert teacher is not None
    operations = training.length.packed_tokens * forward_operations(teacher, section.seq_len)
    found: dict[str, Any] = {
        "stage": "cache",
        "name": training.name,
        "tokens": training.length.packed_tokens,
        "seq_len": section.seq_len,
        "operations": operations,
    }
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
        found["memory"] = _held_against(writing_bytes(teacher, setup), devices)
    return found | cost_of(operations, devices)


def cost_of(operations: int, devices: DevicesSection | None, *, processes: int | None = None) -> dict[str, Any]:
    """Hours of all devices together and of the clock, where devices are known.

    Args:
        operations: What is computed.
        devices: The recipe's devices.
        processes: How many of them compute; all when None.
    """
    if devices is None:
        return {"gpu_hours": None, "hours": None}
    hours = device_hours(operations, find_device(devices.gpu), mfu=devices.mfu)
    return {"gpu_hours": hours, "hours": hours / (processes or devices.count)}


def _memory(training: Training, setup: TrainingSetup, devices: DevicesSection) -> dict[str, Any]:
    found = training_bytes(training.student, training.teacher, setup)
    held = _held_against(found, devices)
    longest = longest_sequence(training.student, training.teacher, setup, held["device_bytes"])
    return {"memory": {**held, "longest_sequence_tokens": longest}}


def _held_against(found: TrainingBytes, devices: DevicesSection) -> dict[str, Any]:
    visible = find_device(devices.gpu).visible_bytes
    return {
        **asdict(found),
        "device_bytes": visible,
        "verdict": training_verdict(found.total_bytes, visible),
    }
