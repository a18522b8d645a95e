"""Drafting a first recipe from a checkpoint's config.json and what is wished for, and counting what its run takes."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from minitron.artifacts.atomic import write_text
from minitron.artifacts.json_files import JsonObject
from minitron.checkpoints.hub import find_config, hub_name
from minitron.data.locations import is_local
from minitron.drafting.setups import Setup, setups
from minitron.drafting.sizes import search_ladder
from minitron.drafting.text import recipe_text
from minitron.drafting.values import LAYERWISE, Teacher, Values, recipe_values
from minitron.drafting.wishes import NO_GPU, Wishes
from minitron.dry_run.run import DryRun, plan_run
from minitron.errors import BudgetError, MinitronError
from minitron.estimate.devices import find_device
from minitron.estimate.serving.fit import FITS
from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.vllm_command import longest_context
from minitron.integrations.readers.check import check
from minitron.models.config import read_config, shape_from_config
from minitron.models.shape import HybridShape
from minitron.recipe.load import load_recipe, make_section
from minitron.recipe.paths import resolve_paths
from minitron.recipe.recipe import Recipe
from minitron.search.solver import NothingFitsError
from minitron.units import format_bytes

# Engines that must take the student where they take the teacher.
WANTED_READERS = ("vllm",)
# Share of the parameters below which a cut is warned of: arXiv 2407.14679 goes from 15B to 8B, and from there to 4B.
DEEPEST_CUT = 0.5
# Parameters of a teacher beyond which a machine without a GPU holds a block of it at a time: 8 GB in fp32.
CPU_WHOLE_PARAMS = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A recipe that was written, and what its run would do, take and need.

    Attributes:
        recipe: The file.
        dry_run: As `minitron run RECIPE --dry-run` counts it.
        warnings: What the recipe cannot mend, a sentence each; those of the dry run aside.
    """

    recipe: Path
    dry_run: DryRun
    warnings: tuple[str, ...]

    def to_json(self) -> JsonObject:
        """As JSON."""
        return {"recipe": str(self.recipe), "warnings": list(self.warnings), "dry_run": self.dry_run.to_json()}


def draft_recipe(checkpoint: str | Path, output: str | Path, wishes: Wishes | None = None) -> Draft:
    """Writes a commented recipe that cuts a checkpoint to a memory and distills it on GPUs that hold the training.

    Sizes are tried down to where something fits the budget, ways to train from the fastest to the one that takes least
    memory, GPUs from one to eight. Weights and text need not be there.

    Args:
        checkpoint: Checkpoint folder, `config.json`, or a name on the Hugging Face hub, whose weights are not fetched.
        output: The file to write; it must not be there.
        wishes: Where the student is served, and where and from what it is made.

    Raises:
        MinitronError: The checkpoint cannot be read, fits as it is, or cannot be cut so far; a GPU is unknown; or the
            file is there.

    Example:
        ```python
        draft = minitron.draft_recipe("nvidia-12b/", "recipe.yaml", minitron.Wishes(gpu="a10g", context_tokens=131072))
        print(draft.dry_run.cost.hours, "hours")
        ```
    """
    wishes, path = wishes or Wishes(), Path(output)
    if path.exists():
        raise MinitronError(f"{path} is there already: name another file by --output, or remove it")
    _check(wishes)
    config_path = find_config(checkpoint)
    config = read_config(config_path)
    shape = shape_from_config(config)
    folder = config_path if config_path.is_dir() else config_path.parent
    teacher = Teacher(
        name=_run_name(checkpoint, folder),
        path=_from_recipe(folder, path) if Path(checkpoint).exists() else str(checkpoint),
        shape=shape,
        longest=longest_context(config),
        readers=tuple(reader for reader in WANTED_READERS if not check(config, shape, reader, 1)),
    )
    wishes = replace(wishes, data=_texts(wishes.data, path), heldout=_texts(wishes.heldout, path))
    values = _draft(teacher, wishes, path)
    write_text(path, recipe_text(values, _heading(teacher, wishes, path)))
    recipe = load_recipe(path)
    found = plan_run(recipe, [str(path)])
    return Draft(recipe=path, dry_run=found, warnings=tuple(_warnings(teacher, wishes, found.sizes.student.params)))


def _draft(teacher: Teacher, wishes: Wishes, path: Path) -> Values:
    """The first sizes that leave something within the budget, trained in the first way that fits its GPUs."""
    nothing: NothingFitsError | None = None
    for sizes in search_ladder(teacher.shape):
        first = _recipe(recipe_values(teacher, wishes, sizes, Setup(gpus=0), teacher.shape.params), path)
        _require_too_large(teacher.shape, first)
        try:
            student = plan_run(first, []).sizes.student.params
        except NothingFitsError as error:
            nothing = error
            continue
        return _trained(teacher, wishes, sizes, student, path)
    assert nothing is not None
    raise nothing


def _recipe(values: Values, path: Path) -> Recipe:
    return resolve_paths(make_section(Recipe, dict(values)), path.resolve().parent)


def _trained(
    teacher: Teacher, wishes: Wishes, sizes: Mapping[str, list[int]], student_params: int, path: Path
) -> Values:
    """The values with the first way to train that fits its GPUs, else the last, and whole models where they fit."""
    gpus = 0 if wishes.train_gpu == NO_GPU else wishes.train_gpus
    for way in setups(gpus):
        values = recipe_values(teacher, wishes, sizes, way, student_params)
        stages = plan_run(_recipe(values, path), []).stages
        memories = [phase.memory for stage in stages for phase in stage.phases]
        if all(memory is None or memory.verdict == FITS for memory in memories):
            break
    too_large = {stage.name for stage in stages if stage.held is not None and stage.held.verdict != FITS}
    if not way.gpus and teacher.shape.params > CPU_WHOLE_PARAMS:
        too_large = set(LAYERWISE)
    return recipe_values(teacher, wishes, sizes, way, student_params, too_large)


def _require_too_large(teacher: HybridShape, recipe: Recipe) -> None:
    budget = recipe.budget
    total = memory_bytes(teacher, budget.workload).total_bytes
    within = budget.max_params is None or teacher.params <= budget.max_params
    if total <= budget.budget_bytes and within:
        raise BudgetError(
            f"there is nothing to cut, the teacher takes {format_bytes(total)} of {format_bytes(budget.budget_bytes)} "
            f"at {budget.sequences} x {budget.context_tokens:,} tokens: ask for less memory, fewer parameters, or more "
            "context or sequences"
        )


def _check(wishes: Wishes) -> None:
    if wishes.train_gpu != NO_GPU:
        find_device(wishes.train_gpu)
    if not wishes.data:
        raise MinitronError("text to calibrate and train on must be named, none is")


def _run_name(checkpoint: str | Path, folder: Path) -> str:
    """A folder's name, or that of a repository on the hub, with what a run may be called."""
    name = None if Path(checkpoint).exists() else hub_name(str(checkpoint))
    last = Path(os.path.abspath(folder)).name if name is None else name.repo.rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-_") or "student"


def _texts(paths: tuple[str, ...], recipe: Path) -> tuple[str, ...]:
    return tuple(_from_recipe(Path(text), recipe) if is_local(text) else text for text in paths)


def _from_recipe(path: Path, recipe: Path) -> str:
    """A path as a recipe has it: from its folder where it lies beneath or beside, whole where it lies elsewhere."""
    relative = os.path.relpath(path, recipe.resolve().parent)
    return str(path.resolve()) if relative.startswith("../../..") else relative


def _heading(teacher: Teacher, wishes: Wishes, path: Path) -> str:
    where = wishes.gpu if wishes.memory_gib is None else f"{wishes.memory_gib:g} GiB"
    return (
        f"{teacher.name} cut to fit {wishes.context_tokens:,} tokens on {where} and distilled back; drafted by "
        f"minitron init.\nWhat a run of it does, takes and needs: minitron run {path.name} --dry-run. What is left out "
        "has its default."
    )


def _warnings(teacher: Teacher, wishes: Wishes, params: int) -> list[str]:
    found = []
    share = params / teacher.shape.params
    if share < DEEPEST_CUT:
        found.append(
            f"{share:.0%} of the teacher's parameters are left, and a cut so deep takes long to recover: "
            "give more memory, or cut and distill in two runs"
        )
    if teacher.longest is not None and wishes.context_tokens > teacher.longest:
        found.append(
            f"the teacher's configuration allows {teacher.longest:,} tokens, engines refuse the "
            f"{wishes.context_tokens:,} that memory is counted for"
        )
    if not teacher.readers:
        found.append(
            f"{', '.join(WANTED_READERS)} does not take the teacher, see minitron check: no engine binds the shape"
        )
    return found
