"""The forecast of a run as one JSON object."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minitron.dry_run.costs import describe_training, describe_writing
from minitron.dry_run.disk import plan_disk
from minitron.dry_run.launch import plan_launch
from minitron.dry_run.notes import assumptions, memory_warnings, missing_files, settings_warnings
from minitron.dry_run.shapes import describe_shapes, plan_shapes
from minitron.dry_run.stages import describe_stage, plan_stages
from minitron.dry_run.training import trainings
from minitron.estimate.devices import find_device
from minitron.models.config import read_config, shape_from_config
from minitron.recipe.devices import DevicesSection
from minitron.recipe.lengths import check_lengths
from minitron.recipe.recipe import Recipe


def plan_run(recipe: Recipe, arguments: Sequence[str]) -> dict[str, Any]:
    """What a run would do, take and need.

    Args:
        recipe: A loaded recipe.
        arguments: The recipe's file and the overrides, as they were given.

    Raises:
        MinitronError: The teacher has no configuration, or the recipe cannot be followed.
    """
    folder = Path(recipe.teacher)
    config = read_config(folder)
    teacher = shape_from_config(config)
    check_lengths(recipe)
    shapes = plan_shapes(recipe, teacher)
    stages, trained, devices = plan_stages(recipe, shapes), list(trainings(recipe, shapes)), recipe.devices
    rows = [describe_training(training, devices) for training in trained]
    rows += [describe_writing(training, devices) for training in trained if training.mode == "cached"]
    described = [_with_training(describe_stage(stage, devices), rows) for stage in stages]
    return {
        "name": recipe.name,
        "teacher": {"folder": str(folder), "weights_are_there": any(folder.glob("*.safetensors"))},
        "devices": _devices(devices),
        "shapes": describe_shapes(recipe, shapes),
        "stages": described,
        "operations": sum(stage["operations"] for stage in described),
        "gpu_hours": _sum(described, "gpu_hours"),
        "hours": _sum(described, "hours"),
        "disk": plan_disk(recipe, config, shapes, trained),
        "launch": plan_launch(stages, arguments, devices),
        "missing": list(missing_files(recipe)),
        "warnings": [*memory_warnings(recipe, described), *settings_warnings(trained)],
        "assumptions": list(assumptions(recipe, shapes, trained)),
    }


def _with_training(stage: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = [row for row in rows if row["stage"] == stage["name"]]
    summed = {"operations": stage["operations"] + sum(row["operations"] for row in own)}
    for key in ("gpu_hours", "hours"):
        summed[key] = None if stage[key] is None else stage[key] + sum(row[key] for row in own)
    return {**stage, **summed, "trainings": own}


def _sum(stages: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return None if any(stage[key] is None for stage in stages) else sum(stage[key] for stage in stages)


def _devices(devices: DevicesSection | None) -> dict[str, Any] | None:
    if devices is None:
        return None
    device = find_device(devices.gpu)
    return {
        **devices.model_dump(),
        "count": devices.count,
        "visible_bytes": device.visible_bytes,
        "bf16_tflops": device.bf16_tflops,
    }
