"""The dry run: what a run would do, take and need, from the recipe and the teacher's config.json alone."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from minitron.artifacts.json_files import JsonObject
from minitron.checkpoints.hub import find_config
from minitron.dry_run.costs import Cost, phase_costs, sum_costs
from minitron.dry_run.disk import DiskPlan, plan_disk
from minitron.dry_run.launch import LaunchStep, plan_launch
from minitron.dry_run.notes import assumptions, memory_warnings, settings_warnings
from minitron.dry_run.shapes import plan_shapes
from minitron.dry_run.sizes import Sizes, measure_sizes
from minitron.dry_run.stages import PlannedStage, plan_stages
from minitron.dry_run.training import trainings
from minitron.estimate.devices import find_device
from minitron.models.config import read_config, shape_from_config
from minitron.pipeline.preflight import check_against_teacher, check_processes, missing_text
from minitron.pipeline.sections import with_cut_vocabulary
from minitron.pipeline.stage_list import stages_of
from minitron.recipe.devices import DevicesSection
from minitron.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a run would do, take and need.

    Attributes:
        name: The recipe's name.
        teacher: The teacher's folder.
        weights_are_there: Whether it holds weights.
        devices: What training runs on; None without.
        sizes: Sizes of the models.
        stages: The stages in order.
        disk: Files.
        launch: The commands to type.
        missing: Text files that are not there.
        warnings: What will not work or fit.
        assumptions: What the numbers rest on.
    """

    name: str
    teacher: Path
    weights_are_there: bool
    devices: DevicesSection | None
    sizes: Sizes
    stages: tuple[PlannedStage, ...]
    disk: DiskPlan
    launch: tuple[LaunchStep, ...]
    missing: tuple[str, ...]
    warnings: tuple[str, ...]
    assumptions: tuple[str, ...]

    @property
    def cost(self) -> Cost:
        """Operations and hours of all stages."""
        return sum_costs([stage.cost for stage in self.stages])

    def to_json(self) -> JsonObject:
        """As JSON."""
        return {
            "name": self.name,
            "teacher": {"folder": str(self.teacher), "weights_are_there": self.weights_are_there},
            "devices": None if self.devices is None else _describe(self.devices),
            "shapes": self.sizes.to_json(),
            "stages": [stage.to_json() for stage in self.stages],
            **asdict(self.cost),
            "disk": self.disk.to_json(),
            "launch": [asdict(step) for step in self.launch],
            "missing": list(self.missing),
            "warnings": list(self.warnings),
            "assumptions": list(self.assumptions),
        }


def plan_run(recipe: Recipe, arguments: Sequence[str]) -> DryRun:
    """Plans a run; weights and text need not be there.

    Args:
        recipe: A loaded recipe; of a teacher on the hub the configuration alone is fetched.
        arguments: The recipe's file and the overrides, as they were given.

    Raises:
        MinitronError: The teacher has no configuration, or the recipe cannot be followed.
    """
    found = find_config(recipe.teacher)
    folder = found if found.is_dir() else found.parent
    recipe = recipe.model_copy(update={"teacher": str(folder)})
    config = read_config(found)
    teacher = with_cut_vocabulary(recipe, shape_from_config(config))
    check_against_teacher(recipe, teacher)
    shapes, stages = plan_shapes(recipe, teacher), stages_of(recipe)
    trained = list(trainings(recipe, shapes))
    planned = plan_stages(recipe, shapes, stages, phase_costs(trained, recipe.devices))
    check_processes(recipe, 1 if recipe.devices is None else recipe.devices.count)
    return DryRun(
        name=recipe.name,
        teacher=folder,
        weights_are_there=any(folder.glob("*.safetensors")),
        devices=recipe.devices,
        sizes=measure_sizes(recipe, shapes),
        stages=planned,
        disk=plan_disk(recipe, config, shapes, trained),
        launch=plan_launch(stages, arguments, recipe.devices),
        missing=tuple(missing_text(recipe)),
        warnings=(*memory_warnings(recipe, planned), *settings_warnings(trained)),
        assumptions=tuple(assumptions(recipe, shapes, trained)),
    )


def _describe(devices: DevicesSection) -> JsonObject:
    device = find_device(devices.gpu)
    return {
        **devices.model_dump(),
        "count": devices.count,
        "visible_bytes": device.visible_bytes,
        "bf16_tflops": device.bf16_tflops,
    }
