"""The page of a run: its sections, from what the run folder holds."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from minitron.artifacts.json_files import JsonObject, read_record
from minitron.checkpoints.lineage import read_lineage
from minitron.distill.training.record import DistillRecord
from minitron.estimate.serving.fit import FitReport, fit
from minitron.importance.summary import summarize_scores
from minitron.models.shape import HybridShape
from minitron.pipeline.candidates.space import scored_space
from minitron.pipeline.run_report.models import RunModels, find_models
from minitron.pipeline.run_report.results import RunResults
from minitron.pipeline.run_report.serving import serving_parts
from minitron.pipeline.run_report.unit_rows import unit_rows
from minitron.pipeline.sections import search_limits, with_cut_teacher
from minitron.pipeline.stage_list import stages_of
from minitron.report.page.blocks import blocks_section
from minitron.report.page.curves import curves_section
from minitron.report.page.importance import importance_section
from minitron.report.page.memory import memory_section
from minitron.report.page.parts import Page, Section, missing
from minitron.report.page.provenance import StageRow, provenance_section, settings_of
from minitron.report.page.readers import readers_section
from minitron.report.page.shapes import shapes_section
from minitron.report.page.verdict import Verdict, verdict_section
from minitron.search.cloud import Cloud, count_cloud

# (configuration, shape) -> reader with its version -> why it does not take such a model.
AskReaders = Callable[[JsonObject, HybridShape], Mapping[str, Sequence[str]]]
NO_TEACHER = "The teacher, which the recipe names, is not there any more, and nothing in the run folder has its shape."


def lay_out(results: RunResults, ask_readers: AskReaders) -> Page:
    """The page of a run.

    Args:
        results: What the run folder holds.
        ask_readers: Asks the serving readers about a model.

    Raises:
        MinitronError: A result of the run is not as this version writes it.
    """
    models, recipe = find_models(results), results.recipe
    checkpoint = student_checkpoint(results)
    config = models.student_config(checkpoint)
    verdicts = None if config is None or models.student is None else ask_readers(config, models.student)
    done = [name for name, _ in results.states.items() if results.has(name)]
    return Page(
        title=f"{recipe.name}: minitron run",
        subtitle=f"Teacher: {Path(recipe.teacher).name}. Finished stages: {', '.join(done) or 'nothing'}.",
        sections=(
            _verdict(results, models, checkpoint, verdicts),
            _memory(results, models),
            shapes_section(models.search, *_cloud(results, models)),
            importance_section(unit_rows(models), taken_from=models.kept_from, why_not=results.lacks("score")),
            _blocks(results, models),
            _curves(results),
            readers_section(
                verdicts,
                about="the student" if checkpoint is not None else "the chosen shape",
                why_not=results.lacks("search") if models.search is None else NO_TEACHER,
            ),
            _provenance(results, checkpoint),
        ),
    )


def teacher_name(results: RunResults) -> str:
    """What metrics call the teacher that the student learns from."""
    return "teacher" if results.recipe.prune.vocabulary is None else "cut teacher"


def student_checkpoint(results: RunResults) -> Path | None:
    """The latest checkpoint of the student; None where there is none yet."""
    if results.has("distill"):
        return results.run.student
    return results.run.pruned if results.has("prune") else None


def _verdict(
    results: RunResults,
    models: RunModels,
    checkpoint: Path | None,
    verdicts: Mapping[str, Sequence[str]] | None,
) -> Section:
    budget, names = results.recipe.budget, {"search": "chosen", "prune": "pruned", "distill": "distilled"}
    reached = [name for stage, name in names.items() if results.has(stage)]
    students = reached[1:] if len(reached) > 1 else reached
    fits: dict[str, FitReport] = {}
    if models.teacher is not None:
        fits[teacher_name(results)] = fit(models.teacher, budget.workload, budget.budget_bytes)
    if models.student is not None:
        fits |= {name: fit(models.student, budget.workload, budget.budget_bytes) for name in students}
    lacking = [results.lacks(stage) for stage in (*names, "evaluate") if not results.has(stage)]
    changed = [f"The folder's recipe has changed since the search: {line}." for line in results.changes]
    return verdict_section(
        Verdict(
            fits=fits,
            student=students[-1] if students else "",
            metrics=results.run.read_metrics() if results.has("evaluate") else None,
            search=models.search,
            context_tokens=budget.context_tokens,
            commands=() if checkpoint is None else serving_parts(results, checkpoint, verdicts or {}),
            commands_missing="There is no checkpoint to serve yet.",
            absent=[*lacking[:1], *changed],
        )
    )


def _memory(results: RunResults, models: RunModels) -> Section:
    budget = results.recipe.budget
    shapes = {teacher_name(results): models.teacher, "student": models.student}
    found = {name: shape for name, shape in shapes.items() if shape is not None}
    if not found:
        return Section(name="memory", title="Memory against the budget", parts=(missing(NO_TEACHER),))
    return memory_section(found, budget.workload, budget.budget_bytes)


def _cloud(results: RunResults, models: RunModels) -> tuple[Cloud | None, str]:
    """All shapes of the search, counted again, or why they cannot be."""
    source, scores = models.source, models.scores
    if models.search is None or scores is None:
        return None, results.lacks("search")
    if source is None:
        return None, NO_TEACHER
    recipe = with_cut_teacher(results.recipe, results.run)
    space, shares = scored_space(recipe, source, scores)
    return count_cloud(space, recipe.budget.workload, search_limits(recipe), shares), ""


def _blocks(results: RunResults, models: RunModels) -> Section:
    title = "Blocks kept and removed"
    if models.teacher is None or models.source is None:
        return Section(name="blocks", title=title, parts=(missing(NO_TEACHER),))
    if models.kept_layers is None:
        return Section(name="blocks", title=title, parts=(missing(results.lacks("search")),))
    kept = {models.teacher_layers[layer] for layer in models.kept_layers}
    summaries = {}
    if models.scores is not None:
        summaries = {models.teacher_layers[one.layer]: one for one in summarize_scores(models.scores, models.source)}
    return blocks_section(models.teacher, kept, summaries=summaries, taken_from=models.kept_from)


def _curves(results: RunResults) -> Section:
    record = read_record(results.run.record, DistillRecord) if results.has("distill") else None
    metrics = results.run.read_metrics() if results.has("evaluate") else None
    return curves_section(record, metrics, results.lacks("distill" if record is None else "evaluate"))


def _provenance(results: RunResults, checkpoint: Path | None) -> Section:
    rows = [
        StageRow(
            name=stage.name, does=stage.does, state=results.states[stage.name], header=results.headers.get(stage.name)
        )
        for stage in stages_of(results.recipe)
    ]
    lineage = None if checkpoint is None else read_lineage(checkpoint)
    return provenance_section(rows, settings_of(results.recipe.model_dump(mode="json")), lineage)
