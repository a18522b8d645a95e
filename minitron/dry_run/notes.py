"""What a forecast rests on, what is missing for the run, and what will not fit: a sentence each."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minitron.data.documents import is_text_file
from minitron.dry_run.launch import FIRST_MACHINE, THIS_MACHINE
from minitron.dry_run.shapes import Shapes
from minitron.dry_run.training import Training
from minitron.dtypes import dtype_bytes
from minitron.estimate.training.setup import OPTIMIZER_BYTES
from minitron.recipe.devices import DevicesSection
from minitron.recipe.distill import DistillSection
from minitron.recipe.recipe import Recipe
from minitron.recipe.source import Source
from minitron.units import GIB

LIBRARIES = {"adamw_torch_8bit": "torchao", "adamw_torch_4bit": "torchao"}


def missing_files(recipe: Recipe) -> Iterator[str]:
    """Text that the recipe names and that is not there."""
    paths = [source.path for source in _sources(recipe) if is_text_file(source.path)]
    if recipe.evaluate.task is not None:
        paths.append(recipe.evaluate.task.path)
    yield from (path for path in dict.fromkeys(paths) if not Path(path).is_file())


def memory_warnings(recipe: Recipe, stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What does not surely fit the device."""
    for stage in stages:
        held = stage["holds"]
        if held is not None and held["verdict"] != "fits" and recipe.device != "cpu":
            yield (
                f"{stage['name']} {_said(held)}: {held['what']} takes about {held['total_bytes'] / GIB:.1f} of "
                f"{held['device_bytes'] / GIB:.1f} GiB; run it by --set device=cpu"
            )
        yield from _training_warnings(stage["trainings"])


def settings_warnings(trained: Sequence[Training]) -> Iterator[str]:
    """Settings that are known not to work together."""
    for training in trained:
        section = training.section
        if section.sharding == "fsdp2" and LIBRARIES.get(section.optim) == "torchao":
            yield (
                f"{training.where}.optim: torchao 0.18 fails on the shards of torch 2.13 ({section.optim} with "
                "sharding fsdp2); use adamw_torch"
            )


def _said(memory: Mapping[str, Any]) -> str:
    return "is tight" if memory["verdict"] == "tight" else "does not fit"


def _training_warnings(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        memory = row.get("memory")
        if memory is None or memory["verdict"] == "fits":
            continue
        where = f"{row['stage']} {row['name']}".strip()
        longest = memory.get("longest_sequence_tokens", row["seq_len"])
        mend = f"; sequences of up to {longest:,} tokens would fit" if longest < row["seq_len"] else ""
        yield (
            f"{where} {_said(memory)}: about {memory['total_bytes'] / GIB:.1f} of {memory['device_bytes'] / GIB:.1f} "
            f"GiB a device with blocks of {row['seq_len']:,} tokens{mend}"
        )


def assumptions(recipe: Recipe, shapes: Shapes, trained: Sequence[Training]) -> Iterator[str]:
    """What the numbers rest on."""
    yield (
        "operations are counted: 2 a weight and token, attention over half a block, Mamba's scan in chunks of 128; "
        "a backward pass is two forward ones, and blocks run once more where they are recomputed; optimizer and "
        "communication are left out"
    )
    if recipe.devices is None:
        yield (
            "hours and memory need devices: add a section devices, or --set devices.gpu=h100 "
            "--set devices.gpus_per_node=8"
        )
    else:
        yield from _of_devices(recipe.devices)
        yield from _of_hosts(recipe.devices, trained)
    yield from _of_shapes(recipe, shapes)
    yield from _of_settings(trained)


def _of_devices(devices: DevicesSection) -> Iterator[str]:
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


def _of_hosts(devices: DevicesSection, trained: Sequence[Training]) -> Iterator[str]:
    most = max((_loaded_bytes(training) for training in trained if training.section.sharding == "fsdp2"), default=0)
    if most:
        yield (
            "fsdp2: each process loads its models on the CPU before they are put into shards, up to "
            f"{devices.gpus_per_node * most / GIB:.0f} GiB of a machine's own memory"
        )


def _loaded_bytes(training: Training) -> int:
    weights = training.student.params * dtype_bytes(training.section.weights_dtype)
    if training.mode == "online" and training.teacher is not None:
        assert isinstance(training.section, DistillSection)
        weights += training.teacher.params * dtype_bytes(training.section.teacher.dtype)
    return weights


def _of_shapes(recipe: Recipe, shapes: Shapes) -> Iterator[str]:
    if shapes.blocks_cut:
        low, high = shapes.lightest / 1e9, shapes.heaviest / 1e9
        yield (
            "which blocks go depends on scores: assumed of each kind in proportion, "
            f"{low:.3f}B to {high:.3f}B parameters are left"
        )
    if shapes.by_scores and shapes.found.num_feasible > 1:
        yield f"the shape depends on scores (search.choose={recipe.search.choose}): counted for the largest that fits"


def _of_settings(trained: Sequence[Training]) -> Iterator[str]:
    if any(training.section.precision == training.section.weights_dtype == "fp32" for training in trained):
        yield "what computes in fp32 takes longer than its hours, which are at the bf16 rate"
    unknown = {training.section.optim for training in trained} - set(OPTIMIZER_BYTES)
    if unknown:
        yield f"the states of {', '.join(sorted(unknown))} are not known here: counted as adamw_torch's"
    libraries = {LIBRARIES[training.section.optim] for training in trained if training.section.optim in LIBRARIES}
    if libraries:
        yield f"the optimizer is {', '.join(sorted(libraries))}'s: pip install 'minitron[lowmem]'"
    if any(each.section.loss.hidden for each in trained if isinstance(each.section, DistillSection)):
        yield "hidden states that are matched are left out of the memory"


def _sources(recipe: Recipe) -> Iterator[Source]:
    sections: list[Any] = [recipe.score, recipe.distill, *recipe.distill.phases, recipe.evaluate]
    sections += [recipe.prune.repair, recipe.prune.compensate, recipe.correct_teacher]
    if recipe.depth_first is not None:
        sections += [recipe.depth_first.distill, *recipe.depth_first.distill.phases]
    for section in sections:
        if section is not None:
            yield from section.data or ()
