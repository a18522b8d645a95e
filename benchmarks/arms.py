"""Distilling and measuring a student beside a run, as several benchmarks compare them."""

from pathlib import Path

from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.data.masks import TokenSequences
from minitron.data.sequences import blend_sources
from minitron.distill.training.stage import DistillRecord
from minitron.distributed import Ranks
from minitron.evaluate.metrics import Metrics
from minitron.pipeline.context import Execution, StageContext
from minitron.pipeline.evaluating.plan import EvaluationPlan
from minitron.pipeline.evaluation import evaluate_model
from minitron.pipeline.recovery import Kept, Recovery, recover
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, RunFolder
from minitron.pipeline.sections import teaching_checkpoint
from minitron.pipeline.teachers import TeacherSource
from minitron.pipeline.text import text_sources
from minitron.recipe.recipe import Recipe
from minitron.runtime.loading import load_model, load_tokenizer


def held_out_ids(recipe: Recipe) -> TokenSequences:
    """Token ids [N, T] of the recipe's evaluation text in its teacher's tokens, all of which count."""
    section = recipe.evaluate
    return blend_sources(
        text_sources(section.data, held_out=True),
        load_tokenizer(Path(recipe.teacher)),
        seq_len=section.seq_len,
        num_sequences=section.sequences,
        seed=recipe.seed,
    )


def distill_and_measure(
    recipe: Recipe, run: RunFolder, student: PreTrainedModel, template: Checkpoint, output: Path, kept: Kept | None
) -> tuple[Metrics, DistillRecord]:
    """Distills a student as the recipe says and measures it against the recipe's teacher.

    Args:
        recipe: The recipe.
        run: Its run folder, for a corrected or cached teacher.
        student: What is trained.
        template: The checkpoint whose names, dtypes and configuration it has.
        output: New folder.
        kept: What it has of its teacher; where None, hidden states are not matched.
    """
    section = recipe.distill
    if kept is None and section.loss.hidden is not None:
        section = section.model_copy(update={"loss": section.loss.model_copy(update={"hidden": None})})
    output.mkdir(parents=True)
    context = StageContext(recipe=recipe, ranks=Ranks(recipe.device), run=run, output=output)
    source = TeacherSource(folder=teaching_checkpoint(recipe, run), caches=run.teacher_cache)
    record = recover(context, student, template, Recovery(section=section, teacher=source, kept=kept))
    teacher = load_model(Path(recipe.teacher), device=recipe.device)
    folder = output / CHECKPOINT_FOLDER
    plan = EvaluationPlan(
        section=recipe.evaluate,
        workload=recipe.budget.workload,
        execution=Execution(device=recipe.device, seed=recipe.seed),
    )
    metrics = evaluate_model(load_model(folder, device=recipe.device), folder, plan, teacher=teacher)
    return metrics, record


def kl_of(metrics: Metrics) -> float:
    """KL to the teacher of a model that was measured against one."""
    assert metrics.kl_to_teacher is not None
    return metrics.kl_to_teacher


def percent(share: float | None) -> str:
    """A share of problems in percent; a dash where the recipe has no task."""
    return "-" if share is None else f"{share:.1%}"
