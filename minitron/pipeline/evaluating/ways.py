"""Opens an evaluation as its section says: of models in memory, or layerwise."""

from pathlib import Path

from minitron.pipeline.evaluating.layerwise import LayerwiseEvaluation
from minitron.pipeline.evaluating.loaded import LoadedEvaluation
from minitron.pipeline.evaluating.plan import Evaluation, EvaluationPlan, EvaluationTeacher


def open_evaluation(plan: EvaluationPlan, teacher: EvaluationTeacher | None, *, scratch: Path) -> Evaluation:
    """What measures checkpoints by a plan.

    Args:
        plan: What is measured.
        teacher: What the KL is to; None leaves it out.
        scratch: Where a layerwise one has its hidden states; the caller removes it.
    """
    if plan.section.layerwise:
        return LayerwiseEvaluation(plan, teacher, scratch)
    return LoadedEvaluation(plan, teacher)
