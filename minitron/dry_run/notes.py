"""Warnings and assumptions of a dry run, a sentence each."""

import math
from collections.abc import Iterator, Sequence

from minitron.distill.settings import AUTO
from minitron.dry_run.costs import PhaseCost
from minitron.dry_run.launch import FIRST_MACHINE, THIS_MACHINE
from minitron.dry_run.shapes import Shapes
from minitron.dry_run.stages import PlannedStage
from minitron.dry_run.training import Training
from minitron.dtypes import dtype_bytes
from minitron.estimate.serving.fit import FITS, TIGHT
from minitron.estimate.training.setup import OPTIMIZER_BYTES
from minitron.models.shape import HybridShape
from minitron.recipe.devices import DevicesSection
from minitron.recipe.distill import DistillSection
from minitron.recipe.recipe import Recipe
from minitron.units import GIB

LIBRARIES = {"adamw_torch_8bit": "torchao", "adamw_torch_4bit": "torchao"}


def memory_warnings(recipe: Recipe, stages: Sequence[PlannedStage]) -> Iterator[str]:
    """What does not surely fit the device."""
    for stage in stages:
        held = stage.held
        if held is not None and held.verdict != FITS and recipe.device != "cpu":
            yield (
                f"{stage.name} {_finding(held.verdict)}: {held.what} takes about {held.total_bytes / GIB:.1f} of "
                f"{held.device_bytes / GIB:.1f} GiB; run it by --set device=cpu"
            )
        yield from _phase_warnings(stage.phases)


def settings_warnings(trained: Sequence[Training]) -> Iterator[str]:
    """Settings that are known not to work together."""
    for training in trained:
        section = training.section
        if section.sharding == "fsdp2" and LIBRARIES.get(section.optim) == "torchao":
            yield (
                f"{training.where}.optim: torchao 0.18 fails on the shards of torch 2.13 ({section.optim} with "
                "sharding fsdp2); use adamw_torch"
            )


def _finding(verdict: str) -> str:
    return "is tight" if verdict == TIGHT else "does not fit"


def _phase_warnings(phases: Sequence[PhaseCost]) -> Iterator[str]:
    for phase in phases:
        memory = phase.memory
        if memory is None or memory.verdict == FITS:
            continue
        where = f"{phase.stage} {phase.name}".strip()
        longest = phase.seq_len if memory.longest_sequence_tokens is None else memory.longest_sequence_tokens
        mend = f"; sequences of up to {longest:,} tokens would fit" if longest < phase.seq_len else ""
        yield (
            f"{where} {_finding(memory.verdict)}: about {memory.parts.total_bytes / GIB:.1f} of "
            f"{memory.device_bytes / GIB:.1f} GiB a device with sequences of {phase.seq_len:,} tokens{mend}"
        )


def assumptions(recipe: Recipe, shapes: Shapes, trained: Sequence[Training]) -> Iterator[str]:
    """Assumptions that the numbers are made under."""
    yield (
        "operations are counted: 2 a weight and token, attention over half a sequence, Mamba's scan in chunks of 128; "
        "a backward pass is two forward ones, and blocks run once more where they are recomputed; optimizer and "
        "communication are left out"
    )
    if recipe.devices is None:
        yield (
            "hours and memory need devices: add a section devices, or --set devices.gpu=h100 "
            "--set devices.gpus_per_node=8"
        )
    else:
        yield from _device_assumptions(recipe.devices)
        yield from _host_assumptions(recipe.devices, trained)
    kept = recipe.prune.vocabulary
    if kept is not None and kept.size is None:
        yield (
            f"how many of {shapes.teacher.vocab_size:,} tokens are kept is known once the text is counted, all are "
            "assumed here; prune.vocabulary.size gives a number"
        )
    yield from _shape_assumptions(recipe, shapes)
    yield from _settings_assumptions(trained)


def _device_assumptions(devices: DevicesSection) -> Iterator[str]:
    yield f"hours are operations at {devices.mfu:.0%} of the peak bf16 rate (devices.mfu): assumed, not measured"
    yield (
        "memory is estimated: weights, gradients, optimizer and teacher are counted, activations are what matrix "
        "products read and write by Mamba's kernels, 1.5 GiB for context and fragmentation are assumed"
    )
    if devices.nodes > 1:
        yield (
            f"{THIS_MACHINE} is 0 on the first machine, then 1, 2, ...; {FIRST_MACHINE} is the first one's address; "
            "all machines share the run folder and the recipe's"
        )


def _host_assumptions(devices: DevicesSection, trained: Sequence[Training]) -> Iterator[str]:
    sharded = (training for training in trained if training.section.sharding == "fsdp2")
    most = max((_process_bytes(training, devices.count) for training in sharded), default=0.0)
    if most:
        yield (
            "fsdp2: each process loads its shards alone, with one tensor at a time beside them: at most "
            f"{devices.gpus_per_node * most / GIB:.0f} GiB of a machine's own memory, less where they lie on GPUs"
        )


def _process_bytes(training: Training, count: int) -> float:
    """Shards of one of so many processes, and the largest tensor whole."""
    held = [(training.student, training.section.weights_dtype)]
    if training.mode == "online" and training.teacher is not None:
        assert isinstance(training.section, DistillSection)
        held.append((training.teacher, training.section.teacher.dtype))
    shards = sum(shape.params * dtype_bytes(dtype) for shape, dtype in held) / count
    return shards + max(_largest_tensor(shape) * dtype_bytes(dtype) for shape, dtype in held)


def _largest_tensor(shape: HybridShape) -> int:
    return max(math.prod(dims) for dims in shape.tensor_shapes().values())


def _shape_assumptions(recipe: Recipe, shapes: Shapes) -> Iterator[str]:
    if shapes.blocks_cut:
        low, high = shapes.lightest / 1e9, shapes.heaviest / 1e9
        yield (
            "which blocks go depends on scores: assumed of each kind in proportion, "
            f"{low:.3f}B to {high:.3f}B parameters are left"
        )
    if shapes.by_scores and shapes.found.num_feasible > 1:
        yield f"the shape depends on scores (search.choose={recipe.search.choose}): counted for the largest that fits"


def _settings_assumptions(trained: Sequence[Training]) -> Iterator[str]:
    if any(training.section.precision == training.section.weights_dtype == "fp32" for training in trained):
        yield "what computes in fp32 takes longer than its hours, which are at the bf16 rate"
    if any(training.section.precision == "fp8" for training in trained):
        yield (
            "precision fp8 is counted as bf16, in hours and in memory: what it saves was not measured; whether the "
            "device has it and torchao is installed (pip install 'minitron[lowmem]') is seen when a run starts"
        )
    yield "measurements on validation text, about a twentieth of a training, are left out"
    if any(training.section.learning_rate == AUTO for training in trained):
        yield "so is the search for a learning rate (auto), some tenth of a training"
    unknown = {training.section.optim for training in trained} - set(OPTIMIZER_BYTES)
    if unknown:
        yield f"the states of {', '.join(sorted(unknown))} are not known here: counted as adamw_torch's"
    libraries = {LIBRARIES[training.section.optim] for training in trained if training.section.optim in LIBRARIES}
    if libraries:
        yield f"the optimizer is {', '.join(sorted(libraries))}'s: pip install 'minitron[lowmem]'"
    if any(each.section.loss.hidden for each in trained if isinstance(each.section, DistillSection)):
        yield "hidden states that are matched are left out of the memory"
