"""Training steps of distillation at the widths of the 12B and the 9B, with as many blocks as fit the card."""

import gc
import importlib.util
import statistics
from collections.abc import Iterator
from dataclasses import replace

import torch
from published import NANO_9B, NANO_12B
from training_steps import StepSettings, TimedSteps, make_shape, time_steps

from gpu_checks.row import Row, not_run
from gpu_checks.target import Target
from minitron.errors import MinitronError
from minitron.estimate.training.memory import OVERHEAD_BYTES, TrainingBytes, training_bytes
from minitron.estimate.training.operations import training_operations
from minitron.estimate.training.setup import TrainingSetup
from minitron.models.shape import HybridShape
from minitron.recipe.devices import DevicesSection
from minitron.runtime.float8 import require_float8
from minitron.units import GIB

ASSUMED_MFU = float(DevicesSection.model_fields["mfu"].default)


def run(target: Target) -> Iterator[Row]:
    """Speed beside the card's peak, memory beside what a dry run says; fewer blocks where more do not fit."""
    settings = StepSettings(
        device=target.device,
        seq_len=target.sizes.seq_len,
        batch_size=target.sizes.batch_size,
        left_out=target.sizes.left_out,
        steps=target.sizes.steps,
    )
    for pattern in target.sizes.patterns:
        teacher, student = shapes_of(pattern, target.sizes.shrink)
        memory = training_bytes(student, teacher, setup_of(settings))
        title = f"steps of {len(pattern)} blocks ({pattern})"
        free = torch.cuda.mem_get_info()[0] if target.on_cuda else None
        if free is not None and memory.total_bytes - OVERHEAD_BYTES > free:
            yield not_run(title, f"needs about {memory.total_bytes / GIB:.1f} GiB, {free / GIB:.1f} are free")
            continue
        target.restart_peak()
        try:
            timed = time_steps(teacher, student, settings)
        except torch.OutOfMemoryError as error:
            yield not_run(title, str(error).splitlines()[0])
        else:
            yield from _rows(target, settings, (teacher, student), timed, memory)
            yield _fp8_row(target, settings, (teacher, student), timed)
            return
        gc.collect()  # what the failed attempt left in circles
    raise MemoryError(f"not even {len(target.sizes.patterns[-1])} blocks fit the card")


def shapes_of(pattern: str, shrink: int) -> tuple[HybridShape, HybridShape]:
    """Teacher and student of the same blocks."""
    taught, learnt = (
        make_shape(replace(shape, hybrid_override_pattern=pattern), blocks=None, shrink=shrink)
        for shape in (NANO_12B, NANO_9B)
    )
    return taught, learnt


def setup_of(settings: StepSettings) -> TrainingSetup:
    """The same as a dry run takes it."""
    dtype = "bf16" if settings.dtype == torch.bfloat16 else "fp32"
    return TrainingSetup(
        seq_len=settings.seq_len,
        micro_batch_size=settings.micro_batch_size,
        checkpointing=True,
        weights_dtype=dtype,
        precision=dtype,
        optim=settings.optim,
        chunk_tokens=settings.chunk_tokens,
        teacher_dtype=dtype,
    )


def _rows(
    target: Target,
    settings: StepSettings,
    shapes: tuple[HybridShape, HybridShape],
    timed: TimedSteps,
    memory: TrainingBytes,
) -> Iterator[Row]:
    teacher, student = shapes
    size = f"{timed.teacher_params / 1e9:.3g}B to {timed.student_params / 1e9:.3g}B parameters"
    yield Row(
        measured=f"a step of {settings.batch_size} x {settings.seq_len:,} tokens",
        value=statistics.median(timed.seconds),
        unit="s",
        note=f"{len(student.hybrid_override_pattern)} blocks ({student.hybrid_override_pattern}), {size}",
    )
    peak = None if target.profile is None else target.profile.bf16_tflops
    counted = training_operations(student, settings.seq_len, teacher=teacher, checkpointing=True)
    yield Row(
        measured="tokens a second",
        value=timed.tokens_per_s,
        unit="tokens/s",
        reference=None if peak is None else ASSUMED_MFU * peak * 1e12 / counted,
        reference_is="" if peak is None else f"a dry run at devices.mfu {ASSUMED_MFU:g}",
        note=target.no_profile if peak is None else "",
    )
    needed = training_operations(student, settings.seq_len, teacher=teacher)
    for title, operations in (("MFU", needed), ("MFU with recomputation, a dry run's devices.mfu", counted)):
        if peak is None:
            yield not_run(title, target.no_profile)
        else:
            yield Row(
                measured=title,
                value=operations * timed.tokens_per_s / (peak * 1e12),
                unit="of the peak",
                reference=None if operations == needed else ASSUMED_MFU,
                reference_is="" if operations == needed else "a dry run's default",
            )
    estimated = memory.total_bytes - OVERHEAD_BYTES
    tensors = target.peak("peak memory of tensors", estimated, "a dry run's estimate without its overhead")
    allocator = target.peak("peak memory of the allocator", memory.total_bytes, "a dry run's estimate", reserved=True)
    for row in (tensors, allocator):
        yield row if row.state == "not run" else replace(row, note=_without_kernels())


def _fp8_row(
    target: Target, settings: StepSettings, shapes: tuple[HybridShape, HybridShape], in_bf16: TimedSteps
) -> Row:
    """The same steps with products in fp8, which a device or an environment may not have."""
    measured = "tokens a second with precision fp8"
    try:
        require_float8(target.device)
    except MinitronError as error:
        return not_run(measured, str(error))
    target.restart_peak()
    try:
        timed = time_steps(*shapes, replace(settings, fp8=True))
    except torch.OutOfMemoryError as error:
        return not_run(measured, str(error).splitlines()[0])
    return Row(
        measured=measured,
        value=timed.tokens_per_s,
        unit="tokens/s",
        reference=in_bf16.tokens_per_s,
        reference_is="in bf16",
    )


def _without_kernels() -> str:
    """What to know of the estimate where Mamba runs by torch."""
    installed = importlib.util.find_spec("mamba_ssm") is not None
    return "" if installed else "the estimate assumes Mamba's kernels, torch in their place needs more"
