"""Stage `evaluate`: teacher, pruned and distilled checkpoints -> their metrics."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from minitron.artifacts.json_files import JsonObject, write_json
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.students import holds_students, read_students
from minitron.checkpoints.vocabulary import require_one_vocabulary
from minitron.models.nested import NestedStudent
from minitron.pipeline.context import StageContext
from minitron.pipeline.evaluating.plan import EvaluationPlan, EvaluationTeacher
from minitron.pipeline.evaluating.ways import open_evaluation
from minitron.pipeline.nested.extraction import extract_student
from minitron.pipeline.run_folder import METRICS_FILE

# While they are measured.
EXTRACTED_FOLDER = "students"
SCRATCH_FOLDER = "states"


def run(context: StageContext) -> None:
    """Measures teacher, pruned, distilled and the students that it holds; the teacher is loaded and run once.

    Where its vocabulary was cut first, the whole teacher is measured before them, in its own tokens and without a KL.
    """
    ranks, teacher_folder, plan = context.ranks, Path(context.recipe.teacher), _plan(context)
    found = _whole_teacher(context, plan)
    first = "cut teacher" if found else "teacher"
    folders = {first: teacher_folder, "pruned": context.run.pruned, "distilled": context.run.student}
    extracted, scratch = context.output / EXTRACTED_FOLDER, context.output / SCRATCH_FOLDER
    students = nested_students(context.run.student)
    ranks.on_main(partial(_extract, context.run.student, students, extracted))
    folders |= {student.name: extracted / student.name for student in students}
    evaluation = open_evaluation(plan, EvaluationTeacher(folder=teacher_folder), scratch=scratch)
    for name, folder in folders.items():
        require_one_vocabulary(teacher_folder, folder)
        found[name] = evaluation.measure(folder).to_json()
    ranks.barrier()  # behind this none reads what was measured
    if ranks.is_main:
        for folder in (extracted, scratch):
            shutil.rmtree(folder, ignore_errors=True)
        write_json(context.output / METRICS_FILE, found)


def _extract(source: Path, students: Sequence[NestedStudent], folder: Path) -> None:
    for student in students:
        extract_student(open_checkpoint(source), student, folder / student.name)


def _plan(context: StageContext) -> EvaluationPlan:
    recipe = context.recipe
    return EvaluationPlan(
        section=recipe.evaluate,
        workload=recipe.budget.workload,
        execution=context.execution,
        ranks=context.ranks,
    )


def _whole_teacher(context: StageContext, plan: EvaluationPlan) -> dict[str, JsonObject]:
    given = context.given_teacher
    if given is None or given == Path(context.recipe.teacher):
        return {}
    evaluation = open_evaluation(plan, None, scratch=context.output / SCRATCH_FOLDER)
    return {"teacher": evaluation.measure(given).to_json()}


def nested_students(folder: Path) -> tuple[NestedStudent, ...]:
    """The smaller students that a checkpoint holds, if any."""
    return read_students(folder).students if holds_students(folder) else ()
