"""Running a recipe: the whole pipeline, or up to the candidates or the distilled student."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from minitron.api.checks import require_device_name
from minitron.artifacts.json_files import JsonObject
from minitron.checkpoints.hub import HubOrigin, find_checkpoint, hub_origin
from minitron.errors import MinitronError
from minitron.evaluate.metrics import Metrics
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.runner import StageOutcome, run_pipeline
from minitron.pipeline.status import RunStatus, read_status
from minitron.recipe.load import load_recipe
from minitron.recipe.recipe import Recipe
from minitron.search.record import SearchRecord
from minitron.vocabulary.record import VocabularyRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run went through, and where its results lie.

    Attributes:
        recipe: The recipe.
        folder: The run folder.
        outcomes: What became of each stage.
    """

    recipe: Recipe
    folder: RunFolder
    outcomes: tuple[StageOutcome, ...]

    @property
    def origin(self) -> HubOrigin | None:
        """Repository and commit of a teacher that is from the Hugging Face hub."""
        return hub_origin(Path(self.recipe.teacher))

    def reached(self, stage: str) -> bool:
        """Whether the run went through a stage."""
        return any(outcome.name == stage for outcome in self.outcomes)

    @property
    def vocabulary(self) -> VocabularyRecord | None:
        """What the cut of the vocabulary did, in a recipe that has one."""
        return self.folder.read_vocabulary() if self.reached("vocabulary") else None

    @property
    def search(self) -> SearchRecord | None:
        """The candidates, where the run came so far."""
        return self.folder.read_candidates() if self.reached("search") else None

    @property
    def metrics(self) -> dict[str, Metrics] | None:
        """Metrics of teacher, pruned and distilled, where the run came so far."""
        return self.folder.read_metrics() if self.reached("evaluate") else None

    @property
    def student(self) -> Path | None:
        """The distilled checkpoint, where the run came so far."""
        return self.folder.student if self.reached("distill") else None

    def to_json(self) -> JsonObject:
        """As JSON."""
        found: JsonObject = {
            "folder": str(self.folder.path),
            "teacher": self.recipe.teacher if self.origin is None else asdict(self.origin),
            "stages": [asdict(outcome) for outcome in self.outcomes],
        }
        if self.vocabulary is not None:
            found["vocabulary"] = asdict(self.vocabulary)
        if self.search is not None:
            found["search"] = asdict(self.search)
        if self.metrics is not None:
            found["metrics"] = {name: metrics.to_json() for name, metrics in self.metrics.items()}
        return found


def run(
    recipe: str | Path | Recipe,
    *,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    first: str | None = None,
    last: str | None = None,
) -> RunResult:
    """Runs a recipe's stages; those that are finished and whose inputs are the same are skipped.

    Args:
        recipe: A recipe, or its YAML file.
        output: Run folder; `runs/NAME` when None.
        overrides: Settings as `--set` takes them, as in `distill.tokens=200000`.
        first: Run this stage and all after it anew.
        last: Stop after this stage.

    Returns:
        Which stages ran, and the results: `search` (candidates), `metrics` (teacher, pruned, distilled), `student`.

    Raises:
        MinitronError: The recipe or what it names cannot be used; stages that ended before are kept.

    Example:
        ```python
        result = minitron.run("recipe.yaml", output="runs/first", overrides=["distill.tokens=200000"])
        print(result.student, result.metrics["distilled"].to_json())
        ```
    """
    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe), tuple(overrides))
    return run_stages(loaded, None if output is None else Path(output), first=first, last=last)


def run_stages(
    recipe: Recipe,
    output: Path | None = None,
    *,
    first: str | None = None,
    last: str | None = None,
    only: Collection[str] | None = None,
    on_outcome: Callable[[StageOutcome], None] | None = None,
) -> RunResult:
    """Runs a loaded recipe's stages and reports each as it ends.

    Args:
        recipe: The recipe.
        output: Run folder; `runs/NAME` when None.
        first: Run this stage and all after it anew.
        last: Stop after this stage.
        only: Names of the stages that may run.
        on_outcome: Called as a stage ends.

    Raises:
        MinitronError: A stage or the device is unknown, or the recipe or what it names cannot be used.
    """
    require_device_name(recipe.device)
    recipe = recipe.model_copy(update={"teacher": str(find_checkpoint(recipe.teacher))})
    folder = output or Path("runs") / recipe.name
    outcomes = []
    for outcome in run_pipeline(recipe, folder, first=first, last=last, only=only):
        if on_outcome is not None:
            on_outcome(outcome)
        outcomes.append(outcome)
    return RunResult(recipe=recipe, folder=RunFolder(folder), outcomes=tuple(outcomes))


def status(run: str | Path) -> RunStatus:
    """How far a run is, from any process that sees its folder.

    Args:
        run: The run folder.

    Raises:
        MinitronError: No run has begun in that folder.

    Example:
        ```python
        status = minitron.status("runs/first")
        print(status.state, [(stage.name, stage.state) for stage in status.stages])
        ```
    """
    folder = RunFolder(Path(run))
    if not folder.status.is_file():
        raise MinitronError(f"{run} must be the folder of a run that has begun, it has no {folder.status.name}")
    return read_status(folder.status)


def search(
    recipe: str | Path | Recipe, *, output: str | Path | None = None, overrides: Sequence[str] = ()
) -> SearchRecord:
    """Runs a recipe up to its candidates: shapes within the budget, the best first.

    Args:
        recipe: A recipe, or its YAML file.
        output: Run folder; `runs/NAME` when None.
        overrides: Settings as `--set` takes them.

    Returns:
        The candidates with their shapes and bytes, how many shapes fit, and what binds.

    Raises:
        MinitronError: The recipe or what it names cannot be used, or no shape is within the limits.

    Example:
        ```python
        for candidate in minitron.search("recipe.yaml").candidates:
            print(f"{candidate.params:,} parameters, {candidate.memory.total_bytes:,} bytes", candidate.shape)
        ```
    """
    found = run(recipe, output=output, overrides=overrides, last="search").search
    assert found is not None
    return found


def distill(
    recipe: str | Path | Recipe,
    *,
    student: str | Path | None = None,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Runs a recipe up to the distilled student and returns its checkpoint folder.

    Args:
        recipe: A recipe, or its YAML file.
        student: A checkpoint to distill in place of the one that the recipe would cut, as after an alignment: by the
            recipe's teacher and `distill` section alone, nothing is scored, searched or cut.
        output: Run folder; `runs/NAME` when None.
        overrides: Settings as `--set` takes them.

    Returns:
        The student's checkpoint folder, which transformers loads.

    Raises:
        MinitronError: The recipe or what it names cannot be used, or a given student is not one of its teacher.

    Example:
        ```python
        student = minitron.distill("recipe.yaml", overrides=["distill.tokens=200000"])
        model = AutoModelForCausalLM.from_pretrained(student)
        ```
    """
    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe), tuple(overrides))
    if student is not None:
        return distill_student(loaded, student, None if output is None else Path(output))
    found = run(loaded, output=output, last="distill").student
    assert found is not None
    return found


def distill_student(recipe: Recipe, student: str | Path, output: Path | None = None) -> Path:
    """Distills a given checkpoint as a loaded recipe says, as `distill` does."""
    require_device_name(recipe.device)
    from minitron.pipeline.given.student import distill_given  # with torch, which other commands may not need

    recipe = recipe.model_copy(update={"teacher": str(find_checkpoint(recipe.teacher))})
    return distill_given(recipe, find_checkpoint(student), output or Path("runs") / recipe.name)
