"""Stage `evaluate`: teacher, pruned and distilled checkpoints -> their metrics."""

from pathlib import Path

from minitron.artifacts.json_files import JsonObject, write_json
from minitron.checkpoints.vocabulary import require_one_vocabulary
from minitron.pipeline.context import StageContext
from minitron.pipeline.evaluation import evaluate_model
from minitron.pipeline.run_folder import METRICS_FILE
from minitron.runtime.loading import load_model


def run(context: StageContext) -> None:
    """Measures teacher, pruned and distilled; the teacher is loaded once.

    Where its vocabulary was cut first, the whole teacher is measured before them, in its own tokens and without a KL.
    """
    recipe, teacher_folder = context.recipe, Path(context.recipe.teacher)
    found = _whole_teacher(context)
    first = "cut teacher" if found else "teacher"
    teacher = load_model(teacher_folder, device=recipe.device)
    for name, folder in ((first, teacher_folder), ("pruned", context.run.pruned), ("distilled", context.run.student)):
        require_one_vocabulary(teacher_folder, folder)
        model = teacher if folder == teacher_folder else load_model(folder, device=recipe.device)
        found[name] = evaluate_model(
            model, folder, recipe.evaluate, recipe.budget.workload, teacher=teacher, seed=recipe.seed
        ).to_json()
        del model
    write_json(context.output / METRICS_FILE, found)


def _whole_teacher(context: StageContext) -> dict[str, JsonObject]:
    recipe, given = context.recipe, context.given_teacher
    if given is None or given == Path(recipe.teacher):
        return {}
    model = load_model(given, device=recipe.device)
    workload = recipe.budget.workload
    return {
        "teacher": evaluate_model(model, given, recipe.evaluate, workload, teacher=None, seed=recipe.seed).to_json()
    }
