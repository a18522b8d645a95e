"""Shapes and configurations of a run's models: teacher, what is cut, and student, as far as the folder knows them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.json_files import JsonObject
from minitron.errors import MinitronError
from minitron.importance.scores import Scores, load_scores
from minitron.importance.selection import select_units
from minitron.models.config import config_for_shape, read_config, shape_from_config
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape
from minitron.pipeline.run_report.results import RunResults
from minitron.pipeline.sections import cut_source, with_cut_teacher
from minitron.prune.plan import load_plan
from minitron.search.record import SearchRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RunModels:
    """The models of a run; None is what the folder does not know.

    Attributes:
        teacher: The teacher's shape, with its vocabulary cut where the recipe cuts it.
        teacher_layers: Block of what is cut -> block of the teacher.
        source: The shape that is scored, searched and cut: the teacher's, or what the depth stages left of it.
        source_config: Its `config.json`.
        search: The candidates.
        scores: Scores of the source.
        keep: What of the source the student has.
        student: The student's shape: pruned, or of the chosen candidate.
        kept_from: What `keep` is known from.
    """

    teacher: HybridShape | None
    teacher_layers: tuple[int, ...]
    source: HybridShape | None
    source_config: JsonObject | None
    search: SearchRecord | None
    scores: Scores | None
    keep: Keep | None
    student: HybridShape | None
    kept_from: str

    @property
    def kept_layers(self) -> tuple[int, ...] | None:
        """Blocks of the source that the student has; None where no shape has been chosen."""
        if self.keep is not None:
            return self.keep.layers
        return None if self.search is None else self.search.candidates[0].layers

    def student_config(self, checkpoint: Path | None) -> JsonObject | None:
        """The student's `config.json`: of its checkpoint, or what one would have; None where nothing is known."""
        if checkpoint is not None:
            return read_config(checkpoint)
        if self.source_config is None or self.student is None:
            return None
        return config_for_shape(self.source_config, self.student)


def find_models(results: RunResults) -> RunModels:
    """The models of a run.

    Raises:
        MinitronError: A result of the run is not as this version writes it.
    """
    run, recipe = results.run, with_cut_teacher(results.recipe, results.run)
    search = run.read_candidates() if results.has("search") else None
    scores = load_scores(run.scores) if results.has("score") else None
    plan = load_plan(run.plan) if results.has("prune") else None
    teacher = _shape(_config(Path(recipe.teacher)))
    config = _config(cut_source(recipe, run))
    source = _shape(config) if plan is None else plan.source
    keep: Keep | None = None
    student, kept_from = None, ""
    if plan is not None:
        keep, student, kept_from = plan.keep, plan.target, "the plan that was pruned by"
    elif search is not None:
        student, kept_from = search.candidates[0].shape, "the chosen candidate, which has not been pruned yet"
        keep = _chosen_keep(search, scores, source)
    blocks = range(0 if source is None else source.num_hidden_layers)
    layers = load_plan(run.depth_plan).keep.layers if results.has("depth") else tuple(blocks)
    return RunModels(
        teacher=source if teacher is None and recipe.depth_first is None else teacher,
        teacher_layers=layers,
        source=source,
        source_config=config,
        search=search,
        scores=scores,
        keep=keep,
        student=student,
        kept_from=kept_from,
    )


def _chosen_keep(search: SearchRecord, scores: Scores | None, source: HybridShape | None) -> Keep | None:
    if scores is None or source is None:
        return None
    chosen = search.candidates[0]
    return select_units(scores, source, chosen.shape, chosen.layers)


def _config(folder: Path) -> JsonObject | None:
    """A checkpoint's configuration; None where it is not there any more."""
    try:
        return read_config(folder)
    except MinitronError:
        return None


def _shape(config: Mapping[str, object] | None) -> HybridShape | None:
    return None if config is None else shape_from_config(config)
