"""What a run folder holds: the recipe, and the results of stages that were made from one another."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from minitron.artifacts.header import HEADER_FILE, ArtifactHeader, differences, read_header
from minitron.artifacts.json_files import not_as_written, read_json
from minitron.errors import ArtifactError
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.stage_list import Stage, stages_of
from minitron.recipe.budget import BudgetSection
from minitron.recipe.recipe import Recipe
from minitron.recipe.search import SearchSection

FINISHED, OUTDATED, WITHOUT = "finished", "made from an earlier result of another stage", "no result yet"

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResults:
    """What a run folder holds.

    Attributes:
        run: The folder.
        recipe: The recipe, with the budget and the search that the candidates were found by, where there are any.
        states: Stage of the recipe -> what became of it.
        headers: Stage with a result, outdated ones included -> what that says of itself.
        changes: A line for each setting of budget and search that is another one in the folder's recipe now.
    """

    run: RunFolder
    recipe: Recipe
    states: Mapping[str, str]
    headers: Mapping[str, ArtifactHeader]
    changes: tuple[str, ...]

    def has(self, stage: str) -> bool:
        """Whether a stage has a result that was made from the results that are there."""
        return self.states.get(stage) == FINISHED

    def lacks(self, stage: str) -> str:
        """Why there is nothing to show of a stage."""
        if self.states.get(stage) == OUTDATED:
            return f"The result of {stage} was {OUTDATED}; `minitron run` makes it anew."
        return f"The run has not come to {stage}; `minitron run` with the same recipe goes on from where it stopped."


def open_results(folder: Path) -> RunResults:
    """Reads a run folder.

    Raises:
        ArtifactError: It is no run folder, or its recipe cannot be read.
    """
    run = RunFolder(folder)
    if not run.recipe.is_file():
        raise ArtifactError(
            f"a run folder must hold {run.recipe.name}, {folder} does not; `minitron run RECIPE --output {folder}` "
            "writes it, and skips the stages that are finished"
        )
    recipe = _validated(Recipe, read_json(run.recipe), run.recipe)
    stages = stages_of(recipe)
    found = {stage.name: read_header(run.stage(stage.name)) for stage in stages}
    headers = {name: header for name, header in found.items() if header is not None}
    states = _states(stages, headers)
    searched = recipe
    if states["search"] == FINISHED:
        searched = _as_searched(recipe, headers["search"], run.stage("search") / HEADER_FILE)
    before, now = (one.model_dump(mode="json", include={"budget", "search"}) for one in (searched, recipe))
    return RunResults(run=run, recipe=searched, states=states, headers=headers, changes=tuple(differences(before, now)))


def _states(stages: tuple[Stage, ...], headers: Mapping[str, ArtifactHeader]) -> dict[str, str]:
    """Stage -> what became of it; a result counts where those that it was made from are there still."""
    states: dict[str, str] = {}
    for stage in stages:
        header = headers.get(stage.name)
        if header is None:
            states[stage.name] = WITHOUT
            continue
        reads = header.inputs.get("reads")
        read = reads if isinstance(reads, Mapping) else {}
        fresh = all(states.get(name) == FINISHED and headers[name].inputs_hash == read[name] for name in read)
        states[stage.name] = FINISHED if fresh else OUTDATED
    return states


def _as_searched(recipe: Recipe, header: ArtifactHeader, path: Path) -> Recipe:
    """The recipe with the sections that the candidates were found by; what those leave out counts for nothing."""
    settings = header.inputs["settings"]
    assert isinstance(settings, Mapping)
    sections = {
        "budget": _validated(BudgetSection, {**settings["budget"]}, path),
        "search": _validated(SearchSection, {**recipe.search.model_dump(mode="json"), **settings["search"]}, path),
    }
    return recipe.model_copy(update=sections)


def _validated(kind: type[ModelT], values: Mapping[str, object], path: Path) -> ModelT:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise not_as_written(path, error) from error
