"""The pipeline: stages in order over a run folder, skipping what is finished and re-running what a change touches."""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitron.artifacts.artifact import hash_inputs, read_header
from minitron.artifacts.shared import shared_artifact
from minitron.checkpoints.checkpoint import file_hash, open_checkpoint
from minitron.distributed import Ranks
from minitron.errors import MinitronError
from minitron.pipeline.preflight import check_recipe
from minitron.pipeline.run_folder import Folders
from minitron.pipeline.stages.cache import cache_origin, run_cache
from minitron.pipeline.stages.correct import correct_origin, run_correct
from minitron.pipeline.stages.depth import depth_distill_settings, depth_settings, run_depth, run_depth_distill
from minitron.pipeline.stages.distill import run_distill
from minitron.pipeline.stages.evaluate import run_evaluate
from minitron.pipeline.stages.prune import prune_origin, run_prune
from minitron.pipeline.stages.report import run_report
from minitron.pipeline.stages.score import run_score, score_origin, score_section
from minitron.pipeline.stages.search import run_search, search_settings
from minitron.pipeline.text import data_hashes
from minitron.pipeline.training import teacher_origin, train_origin
from minitron.recipe.recipe import Recipe
from minitron.runtime.loading import check_device

logger = logging.getLogger(__name__)

# Raised when a stage's files change their form, so that artifacts of older versions are made anew.
ARTIFACT_VERSION = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage: what of the recipe it depends on, which stages it reads, its work, and which recipes have it.

    `shared` ones may run in several processes.
    """

    name: str
    reads: tuple[str, ...]
    settings: Callable[[Recipe], dict[str, Any]]
    work: Callable[[Recipe, Folders, Path], None]
    applies: Callable[[Recipe], bool] = lambda recipe: True
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutcome:
    """What became of a stage in this run: skipped because it was finished, or done in so many seconds."""

    name: str
    skipped: bool
    seconds: float


STAGES = (
    Stage(
        name="correct",
        reads=(),
        settings=lambda recipe: {**teacher_origin(recipe), "correct": correct_origin(recipe)},
        work=run_correct,
        applies=lambda recipe: recipe.correct_teacher is not None,
        shared=True,
    ),
    Stage(
        name="depth",
        reads=(),
        settings=depth_settings,
        work=run_depth,
        applies=lambda recipe: recipe.depth_first is not None,
    ),
    Stage(
        name="depth_distill",
        reads=("correct", "depth"),
        settings=depth_distill_settings,
        work=run_depth_distill,
        applies=lambda recipe: recipe.depth_first is not None,
        shared=True,
    ),
    Stage(
        name="score",
        reads=("depth_distill",),
        settings=lambda recipe: score_origin(Path(recipe.teacher), score_section(recipe), seed=recipe.seed),
        work=run_score,
    ),
    Stage(
        name="search",
        reads=("depth_distill", "score"),
        settings=search_settings,
        work=run_search,
    ),
    Stage(name="prune", reads=("depth_distill", "score", "search"), settings=prune_origin, work=run_prune),
    Stage(
        name="cache",
        reads=("correct",),
        settings=cache_origin,
        work=run_cache,
        applies=lambda recipe: recipe.distill.teacher.mode == "cached",
        shared=True,
    ),
    Stage(
        name="distill",
        reads=("correct", "prune", "cache"),
        settings=lambda recipe: train_origin(recipe.distill),
        work=run_distill,
        shared=True,
    ),
    Stage(
        name="evaluate",
        reads=("prune", "distill"),
        settings=lambda recipe: {
            "evaluate": recipe.evaluate.model_dump(exclude={"data"}),
            "device": recipe.device,
            "data": data_hashes(recipe.evaluate.data),
            "task": None if recipe.evaluate.task is None else file_hash(Path(recipe.evaluate.task.path)),
        },
        work=run_evaluate,
    ),
    Stage(
        name="report",
        reads=("distill", "evaluate"),
        settings=lambda recipe: {"name": recipe.name},
        work=run_report,
    ),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)
CACHING = ("correct", "cache")  # what the teacher's cache takes: nothing of the student


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages that a recipe has, in order."""
    return tuple(stage for stage in STAGES if stage.applies(recipe))


def _stage_inputs(recipe: Recipe) -> dict[str, dict[str, Any]]:
    # Of all stages before the first one runs, so that a missing file is found now and not after hours.
    inputs: dict[str, dict[str, Any]] = {}
    for stage in stages_of(recipe):
        inputs[stage.name] = {
            "version": ARTIFACT_VERSION,
            "seed": recipe.seed,
            "settings": stage.settings(recipe),
            "reads": {name: hash_inputs(inputs[name]) for name in stage.reads if name in inputs},
        }
    return inputs


def run_pipeline(
    recipe: Recipe,
    folder: Path,
    *,
    first: str | None = None,
    last: str | None = None,
    only: Collection[str] = STAGE_NAMES,
) -> Iterator[StageOutcome]:
    """Runs the stages in order and yields what became of each as it ends.

    A stage whose artifact is whole and was made from the same inputs is skipped. The inputs of a stage include those
    of the stages it reads, so a changed setting re-runs from the first stage it touches. Several processes started
    together go through the stages together; what takes one process must be finished before.

    Args:
        recipe: A loaded recipe.
        folder: The run folder; made if need be.
        first: Run this stage and all after it anew, whatever is finished.
        last: Stop after this stage.
        only: Names of the stages that may run; the others are passed over.

    Raises:
        MinitronError: A stage's inputs cannot be used; stages that ended before are kept.
    """
    if first is not None and last is not None and STAGE_NAMES.index(first) > STAGE_NAMES.index(last):
        raise MinitronError(f"a run must not start after it stops, got from {first} to {last}")
    check_device(recipe.device)
    ranks = Ranks(recipe.device)
    check_recipe(recipe, open_checkpoint(Path(recipe.teacher)))
    inputs_of = _stage_inputs(recipe)
    folders = {name: folder / name for name in STAGE_NAMES}
    forced = False
    for stage in stages_of(recipe):
        if stage.name not in only:
            continue
        inputs = inputs_of[stage.name]
        forced = forced or stage.name == first
        header = read_header(folders[stage.name])
        if header is not None and header.inputs_hash == hash_inputs(inputs) and not forced:
            logger.info("%s: finished before with the same inputs, skipped", stage.name)
            yield StageOutcome(name=stage.name, skipped=True, seconds=0.0)
        else:
            _require_one_process(stage, ranks)
            logger.info("%s: started", stage.name)
            started = time.monotonic()
            with shared_artifact(
                folders[stage.name], ranks, stage=stage.name, inputs=inputs, seed=recipe.seed
            ) as output:
                stage.work(recipe, folders, output)
            seconds = time.monotonic() - started
            logger.info("%s: done in %.1f s", stage.name, seconds)
            yield StageOutcome(name=stage.name, skipped=False, seconds=seconds)
        if stage.name == last:
            return


def _require_one_process(stage: Stage, ranks: Ranks) -> None:
    if ranks.world_size > 1 and not stage.shared:
        raise MinitronError(
            f"stage {stage.name} takes one process, {ranks.world_size} were started; run it first by "
            f"`minitron run RECIPE --to {stage.name}`"
        )
