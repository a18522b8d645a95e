"""Runs the pipeline's stages in order, skips those that are finished, and runs again what a change touches.

Whatever needs torch is imported when the first stage is due, so that a fault in a recipe is reported at once.
"""

import importlib
import logging
import time
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from minitron.artifacts.finished import find_finished
from minitron.artifacts.header import hash_inputs, require_current
from minitron.artifacts.json_files import JsonObject, write_json
from minitron.pipeline.preflight import check_processes, check_recipe
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.sections import with_cut_teacher
from minitron.pipeline.stage_list import Stage, select_stages, stages_of
from minitron.pipeline.status import watched
from minitron.recipe.recipe import Recipe

if TYPE_CHECKING:
    from minitron.distributed import Ranks

logger = logging.getLogger(__name__)

# After it the teacher is the one that it writes.
VOCABULARY_STAGE = "vocabulary"
# Raised when a stage's files change their form, so that results of older versions are made anew.
ARTIFACT_VERSION = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutcome:
    """What became of a stage in this run.

    Attributes:
        name: The stage.
        skipped: Whether it was finished before.
        seconds: What it took.
    """

    name: str
    skipped: bool
    seconds: float


def run_pipeline(
    recipe: Recipe,
    folder: Path,
    *,
    first: str | None = None,
    last: str | None = None,
    only: Collection[str] | None = None,
) -> Iterator[StageOutcome]:
    """Checks a recipe, then gives an iterator that runs its stages in order and yields what became of each as it ends.

    A stage that is finished and was made from the same inputs is skipped. The inputs of a stage include those of the
    stages it reads, so a changed setting re-runs from the first stage it touches. Several processes started together
    go through the stages together, and what one of them fails with ends them all.

    Args:
        recipe: A loaded recipe.
        folder: The run folder; made if need be.
        first: Run this stage and all after it anew, whatever is finished.
        last: Stop after this stage.
        only: Names of the stages that may run; the others are passed over.

    Raises:
        MinitronError: A stage is unknown, or the recipe cannot be followed. While stages run, that the inputs of one
            cannot be used; stages that ended before are kept.
    """
    stages = select_stages(recipe, first=first, last=last, only=only)
    check_recipe(recipe)
    for stage in stages:
        require_current(RunFolder(folder).stage(stage.name))
    return _run_stages(recipe, folder, stages, first)


def _run_stages(recipe: Recipe, folder: Path, stages: tuple[Stage, ...], first: str | None) -> Iterator[StageOutcome]:
    from minitron.artifacts.shared import hash_once
    from minitron.distributed import Ranks
    from minitron.failures import failing_together
    from minitron.runtime.devices import resolve_device

    given, recipe = recipe, recipe.on_device(resolve_device(recipe.device))
    ranks, run = Ranks(recipe.device), RunFolder(folder)
    if any(section.precision == "fp8" for section in recipe.trained):
        from minitron.runtime.float8 import require_float8

        require_float8(ranks.device)
    check_processes(recipe, ranks.world_size)
    inputs = hash_once(ranks, lambda: stage_inputs(recipe))
    if ranks.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(run.recipe, given.model_dump(mode="json"))
    forced = False
    with (
        watched(run.status, [stage.name for stage in stages]) if ranks.is_main else nullcontext() as status,
        failing_together(ranks),
    ):
        for stage in stages:
            forced = forced or stage.name == first
            own = inputs[stage.name]
            if not forced and ranks.on_main(partial(_is_finished, run.stage(stage.name), own)):
                outcome = StageOutcome(name=stage.name, skipped=True, seconds=0.0)
            else:
                if status is not None:
                    status.begin(stage.name)
                outcome = _run_stage(stage, recipe, run, ranks, own)
            if status is not None:
                status.end(stage.name, skipped=outcome.skipped, seconds=outcome.seconds)
            yield outcome


def _is_finished(folder: Path, inputs: JsonObject) -> bool:
    return find_finished(folder, inputs) is not None


def stage_inputs(recipe: Recipe) -> dict[str, JsonObject]:
    """Stage -> everything that its result depends on; of all stages, so that missing text is found at once."""
    inputs: dict[str, JsonObject] = {}
    for stage in stages_of(recipe):
        inputs[stage.name] = {
            "version": ARTIFACT_VERSION,
            "seed": recipe.seed,
            "settings": stage.fingerprint(recipe),
            "reads": {name: hash_inputs(inputs[name]) for name in stage.reads if name in inputs},
        }
    return inputs


def _run_stage(stage: Stage, recipe: Recipe, run: RunFolder, ranks: "Ranks", inputs: JsonObject) -> StageOutcome:
    from minitron.artifacts.shared import shared_artifact
    from minitron.pipeline.context import StageContext

    followed = recipe if stage.name == VOCABULARY_STAGE else with_cut_teacher(recipe, run)
    logger.info("%s: started", stage.name)
    started = time.monotonic()
    work = importlib.import_module(f"minitron.pipeline.stages.{stage.name}")
    folder = run.stage(stage.name)
    with shared_artifact(folder, ranks, stage=stage.name, inputs=inputs, seed=recipe.seed) as output:
        given = Path(recipe.teacher)
        context = StageContext(recipe=followed, ranks=ranks, run=run, output=output, given_teacher=given)
        if stage.processes == "any":
            work.run(context)
        else:
            ranks.on_main(partial(work.run, context))
    seconds = time.monotonic() - started
    logger.info("%s: done in %.1f s", stage.name, seconds)
    return StageOutcome(name=stage.name, skipped=False, seconds=seconds)
