"""Stage `evaluate`: teacher, pruned and distilled checkpoints -> their metrics."""

import shutil
from pathlib import Path

from minitron.artifacts.json_files import JsonObject, write_json
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.students import holds_students, read_students
from minitron.checkpoints.vocabulary import require_one_vocabulary
from minitron.models.nested import NestedStudent
from minitron.pipeline.context import StageContext
from minitron.pipeline.evaluation import evaluate_model
from minitron.pipeline.nested.extraction import extract_student
from minitron.pipeline.run_folder import METRICS_FILE
from minitron.runtime.loading import load_model

EXTRACTED_FOLDER = "students"  # while they are measured


def run(context: StageContext) -> None:
    """Measures teacher, pruned, distilled and the students that it holds; the teacher is loaded once.

    Where its vocabulary was cut first, the whole teacher is measured before them, in its own tokens and without a KL.
    """
    recipe, teacher_folder = context.recipe, Path(context.recipe.teacher)
    found = _whole_teacher(context)
    first = "cut teacher" if found else "teacher"
    teacher = load_model(teacher_folder, device=recipe.device)
    folders = {first: teacher_folder, "pruned": context.run.pruned, "distilled": context.run.student}
    extracted = context.output / EXTRACTED_FOLDER
    for student in nested_students(context.run.student):
        extract_student(open_checkpoint(context.run.student), student, extracted / student.name)
        folders[student.name] = extracted / student.name
    for name, folder in folders.items():
        require_one_vocabulary(teacher_folder, folder)
        model = teacher if folder == teacher_folder else load_model(folder, device=recipe.device)
        found[name] = evaluate_model(
            model, folder, recipe.evaluate, recipe.budget.workload, teacher=teacher, seed=recipe.seed
        ).to_json()
        del model
    shutil.rmtree(extracted, ignore_errors=True)
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


def nested_students(folder: Path) -> tuple[NestedStudent, ...]:
    """The smaller students that a checkpoint holds, if any."""
    return read_students(folder).students if holds_students(folder) else ()
