"""The run folder: where every stage of a run keeps its files."""

from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.json_files import read_record
from minitron.checkpoints.checkpoint import PLAN_FILE, VOCABULARY_FILE
from minitron.evaluate.metrics import Metrics
from minitron.search.record import SearchRecord
from minitron.vocabulary.record import VocabularyRecord

SCORES_FILE = "scores.safetensors"
CANDIDATES_FILE = "candidates.json"
CHECKPOINT_FOLDER = "checkpoint"
TRAINED_FOLDER = "trained"
RECORD_FILE = "record.json"
METRICS_FILE = "metrics.json"
PICTURE_FILE = "summary.png"
STATUS_FILE = "status.json"
RECIPE_FILE = "recipe.json"
PAGE_FILE = "report.html"
POINTS_FILE = "points.json"
FORECAST_FILE = "forecast.json"
FORECAST_PICTURE_FILE = "forecast.png"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run folder; each stage has a folder of its own in it, named as the stage.

    Attributes:
        path: The folder.
    """

    path: Path

    def stage(self, name: str) -> Path:
        """The folder of a stage."""
        return self.path / name

    @property
    def status(self) -> Path:
        """How far the run is."""
        return self.path / STATUS_FILE

    @property
    def recipe(self) -> Path:
        """The recipe of the last call, with its overrides and absolute paths."""
        return self.path / RECIPE_FILE

    @property
    def page(self) -> Path:
        """The page that `minitron report` writes."""
        return self.path / PAGE_FILE

    @property
    def cut_teacher(self) -> Path:
        """Checkpoint that `vocabulary` writes."""
        return self.path / "vocabulary" / CHECKPOINT_FOLDER

    @property
    def corrected_teacher(self) -> Path:
        """Checkpoint that `correct` writes."""
        return self.path / "correct" / TRAINED_FOLDER / CHECKPOINT_FOLDER

    @property
    def depth_pruned(self) -> Path:
        """Checkpoint that `depth` writes."""
        return self.path / "depth" / CHECKPOINT_FOLDER

    @property
    def depth_plan(self) -> Path:
        """Pruning plan of `depth`."""
        return self.path / "depth" / PLAN_FILE

    @property
    def depth_distilled(self) -> Path:
        """Checkpoint that `depth_distill` writes."""
        return self.path / "depth_distill" / CHECKPOINT_FOLDER

    @property
    def scores(self) -> Path:
        """Scores that `score` writes."""
        return self.path / "score" / SCORES_FILE

    @property
    def candidates(self) -> Path:
        """Candidates that `search` writes."""
        return self.path / "search" / CANDIDATES_FILE

    @property
    def pruned(self) -> Path:
        """Checkpoint that `prune` writes."""
        return self.path / "prune" / CHECKPOINT_FOLDER

    @property
    def plan(self) -> Path:
        """Pruning plan of `prune`."""
        return self.path / "prune" / PLAN_FILE

    @property
    def teacher_cache(self) -> Path:
        """Folder of `cache`: a cache for each phase of the distillation."""
        return self.path / "cache"

    @property
    def student(self) -> Path:
        """Checkpoint that `distill` writes."""
        return self.path / "distill" / CHECKPOINT_FOLDER

    @property
    def record(self) -> Path:
        """Loss curve and tokens of `distill`."""
        return self.path / "distill" / RECORD_FILE

    @property
    def metrics(self) -> Path:
        """Metrics that `evaluate` writes."""
        return self.path / "evaluate" / METRICS_FILE

    @property
    def picture(self) -> Path:
        """Picture that `report` draws."""
        return self.path / "report" / PICTURE_FILE

    @property
    def forecast_points(self) -> Path:
        """Folder of the cuts that are measured for a forecast."""
        return self.path / "forecast" / "measured"

    @property
    def forecast(self) -> Path:
        """What `minitron forecast` predicts."""
        return self.path / "forecast" / FORECAST_FILE

    @property
    def forecast_picture(self) -> Path:
        """Picture that `minitron forecast` draws."""
        return self.path / "forecast" / FORECAST_PICTURE_FILE

    def read_vocabulary(self) -> VocabularyRecord:
        """What the cut of the vocabulary did."""
        return read_record(self.stage("vocabulary") / VOCABULARY_FILE, VocabularyRecord)

    def read_candidates(self) -> SearchRecord:
        """What the search stage found."""
        return read_record(self.candidates, SearchRecord)

    def read_metrics(self) -> dict[str, Metrics]:
        """Metrics of teacher, pruned and distilled."""
        return read_record(self.metrics, dict[str, Metrics])
