"""The pipeline's stages in order: what each reads, depends on, and which recipes have it. Loads no torch.

The work of a stage is the function `run` of the module with its name in `minitron.pipeline.stages`.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from minitron.artifacts.json_files import JsonObject
from minitron.errors import MinitronError
from minitron.pipeline import fingerprints
from minitron.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage of the pipeline.

    Attributes:
        name: Its name, as `--from` and `--to` take it; its folder in the run folder and its module bear it too.
        does: What it does, for a person.
        reads: Stages whose results it reads.
        fingerprint: Recipe -> everything else that its result depends on.
        applies: Whether a recipe has it.
        processes: How many of a launch work on it: `any` number together, or `one` while the others wait.
    """

    name: str
    does: str
    reads: tuple[str, ...]
    fingerprint: Callable[[Recipe], JsonObject]
    applies: Callable[[Recipe], bool] = lambda recipe: True
    processes: Literal["any", "one"] = "any"


def _has_depth_stages(recipe: Recipe) -> bool:
    return recipe.depth_first is not None


STAGES = (
    Stage(
        name="vocabulary",
        does="keep the tokens that the text uses",
        reads=(),
        fingerprint=fingerprints.vocabulary,
        applies=lambda recipe: recipe.prune.vocabulary is not None,
        processes="one",
    ),
    Stage(
        name="correct",
        does="fine-tune the teacher on the distillation's text",
        reads=("vocabulary",),
        fingerprint=fingerprints.correct,
        applies=lambda recipe: recipe.correct_teacher is not None,
    ),
    Stage(
        name="depth",
        does="score and remove blocks",
        reads=("vocabulary",),
        fingerprint=fingerprints.depth,
        applies=_has_depth_stages,
    ),
    Stage(
        name="depth_distill",
        does="distill what the removal left",
        reads=("correct", "depth"),
        fingerprint=fingerprints.depth_distill,
        applies=_has_depth_stages,
    ),
    Stage(
        name="score",
        does="score units and blocks on calibration text",
        reads=("vocabulary", "depth_distill"),
        fingerprint=fingerprints.score,
    ),
    Stage(
        name="search",
        does="find shapes within the budget",
        reads=("depth_distill", "score"),
        fingerprint=fingerprints.search,
    ),
    Stage(
        name="prune",
        does="cut to the chosen shape",
        reads=("depth_distill", "score", "search"),
        fingerprint=fingerprints.prune,
    ),
    Stage(
        name="cache",
        does="write the teacher's best tokens",
        reads=("vocabulary", "correct"),
        fingerprint=fingerprints.cache,
        applies=lambda recipe: recipe.distill.teacher.mode == "cached",
    ),
    Stage(
        name="distill",
        does="distill the pruned checkpoint",
        reads=("correct", "prune", "cache"),
        fingerprint=fingerprints.distill,
    ),
    Stage(
        name="evaluate",
        does="measure teacher, pruned and distilled",
        reads=("prune", "distill"),
        fingerprint=fingerprints.evaluate,
    ),
    Stage(
        name="report",
        does="table and picture",
        reads=("distill", "evaluate"),
        fingerprint=fingerprints.report,
        processes="one",
    ),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)
CACHE_STAGES = ("vocabulary", "correct", "cache")  # what a teacher's cache takes: nothing of the student


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages that a recipe has, in order."""
    return tuple(stage for stage in STAGES if stage.applies(recipe))


def select_stages(
    recipe: Recipe, *, first: str | None = None, last: str | None = None, only: Collection[str] | None = None
) -> tuple[Stage, ...]:
    """The stages of a recipe that a run goes through.

    Args:
        recipe: The recipe.
        first: The stage to run anew from; those before it are gone through all the same, and skipped when finished.
        last: The stage to stop after.
        only: Names of stages that may run.

    Raises:
        MinitronError: A name is not one of the recipe's stages, or `first` comes after `last`.
    """
    stages = stages_of(recipe)
    names = [stage.name for stage in stages]
    for name in (first, last):
        if name is not None and name not in names:
            raise MinitronError(f"a stage must be one of {', '.join(names)}, got {name!r}")
    unknown = sorted(set(only or ()) - set(STAGE_NAMES))
    if unknown:
        raise MinitronError(f"a stage must be one of {', '.join(STAGE_NAMES)}, got {unknown[0]!r}")
    if first is not None and last is not None and names.index(first) > names.index(last):
        raise MinitronError(f"--from must not come after --to, got from {first} to {last}")
    stop = len(names) if last is None else names.index(last) + 1
    return tuple(stage for stage in stages[:stop] if only is None or stage.name in only)
