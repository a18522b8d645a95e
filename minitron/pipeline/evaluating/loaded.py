"""Measures checkpoints that fit into memory whole, beside their teacher."""

from pathlib import Path

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.finite import naming_weights
from minitron.evaluate.metrics import Metrics
from minitron.evaluate.teacher_states import TeacherStates
from minitron.pipeline.evaluating.plan import EvaluationPlan, EvaluationTeacher
from minitron.pipeline.evaluation import evaluate_model
from minitron.runtime.loading import load_model
from minitron.runtime.vocabulary import restrict_vocabulary


class LoadedEvaluation:
    """The teacher, loaded once, and one student at a time; what the teacher says of the text is computed once."""

    def __init__(self, plan: EvaluationPlan, teacher: EvaluationTeacher | None) -> None:
        self._plan, self._source = plan, teacher
        self._teacher: TeacherStates | None = None
        if teacher is not None:
            model = load_model(teacher.folder, device=plan.execution.device, dtype=plan.dtype)
            if teacher.kept is not None:
                restrict_vocabulary(model, teacher.kept)
            self._teacher = TeacherStates(model)

    def measure(self, folder: Path) -> Metrics:
        """Metrics of a checkpoint, which is loaded for the time of the call unless it is the teacher."""
        plan, source, teacher = self._plan, self._source, self._teacher
        if source is not None and teacher is not None and source.kept is None and folder == source.folder:
            model = teacher.model
        else:
            model = load_model(folder, device=plan.execution.device, dtype=plan.dtype)
        with naming_weights(*([] if source is None else [open_checkpoint(source.folder)])):
            return evaluate_model(model, folder, plan, teacher=teacher)
