"""The stages of a run in order: what each does and costs. Estimates."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from minitron.artifacts.json_files import JsonObject
from minitron.dry_run.costs import Cost, PhaseCost, cost_of, sum_costs
from minitron.dry_run.shapes import Shapes
from minitron.dry_run.work import WORK, StageWork
from minitron.estimate.devices import find_device
from minitron.estimate.training.memory import OVERHEAD_BYTES, training_verdict
from minitron.pipeline.stage_list import Stage
from minitron.recipe.devices import DevicesSection
from minitron.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldModels:
    """Models that a stage holds at once on the device, and whether they fit."""

    what: str
    total_bytes: int
    device_bytes: int
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """A stage of a run and what it costs.

    Attributes:
        name: Its name.
        does: What it does, for a person.
        processes: How many of a launch work on it: `any` number together, or `one` while the others wait.
        held: Models that it holds at once; None where that is little, or without devices.
        cost: Operations and hours, its phases included.
        phases: The phases that it trains or caches.
    """

    name: str
    does: str
    processes: str
    held: HeldModels | None
    cost: Cost
    phases: tuple[PhaseCost, ...]

    def to_json(self) -> JsonObject:
        """As JSON."""
        return {
            "name": self.name,
            "does": self.does,
            "processes": self.processes,
            "holds": None if self.held is None else asdict(self.held),
            **asdict(self.cost),
            "trainings": [phase.to_json() for phase in self.phases],
        }


def plan_stages(
    recipe: Recipe, shapes: Shapes, stages: Iterable[Stage], phases: Sequence[PhaseCost]
) -> tuple[PlannedStage, ...]:
    """What the stages of a run do and cost.

    Args:
        recipe: The recipe.
        shapes: The run's shapes.
        stages: The recipe's stages in order.
        phases: Costs of all phases that are trained or cached.
    """
    return tuple(
        _plan(stage, recipe, shapes, [each for each in phases if each.stage == stage.name]) for stage in stages
    )


def _plan(stage: Stage, recipe: Recipe, shapes: Shapes, phases: Sequence[PhaseCost]) -> PlannedStage:
    work = WORK[stage.name](recipe, shapes) if stage.name in WORK else StageWork(does=stage.does)
    own = cost_of(work.operations, recipe.devices, processes=_sharing(stage, work, recipe.devices))
    return PlannedStage(
        name=stage.name,
        does=work.does,
        processes=stage.processes,
        held=_held(work, recipe.devices),
        cost=sum_costs([own, *(phase.cost for phase in phases)]),
        phases=tuple(phases),
    )


def _sharing(stage: Stage, work: StageWork, devices: DevicesSection | None) -> int | None:
    """How many devices compute what a stage does beside training; all when None."""
    if stage.processes == "one":
        return 1
    return None if devices is None or work.most_processes is None else min(devices.count, work.most_processes)


def _held(work: StageWork, devices: DevicesSection | None) -> HeldModels | None:
    if not work.weights_bytes or devices is None:
        return None
    total, visible = work.weights_bytes + OVERHEAD_BYTES, find_device(devices.gpu).visible_bytes
    return HeldModels(
        what=work.models, total_bytes=total, device_bytes=visible, verdict=training_verdict(total, visible)
    )
