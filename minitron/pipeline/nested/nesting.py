"""Students that share weights: the order of the largest one's units, and what each student starts from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.checkpoints.names import read_place
from minitron.checkpoints.places import model_places
from minitron.checkpoints.students import write_correction, write_students
from minitron.checkpoints.weights import open_weights
from minitron.distill.nested.students import TrainedStudent
from minitron.errors import MinitronError
from minitron.importance.ordering import best_first, carried_scores
from minitron.importance.scores import Scores, load_scores
from minitron.models.keep import Keep, compose_keeps
from minitron.models.nested import NestedStudent, NestedStudents
from minitron.models.shape import HybridShape
from minitron.models.slicing import cut_tensor, tensor_cuts
from minitron.pipeline.context import StageContext
from minitron.pipeline.nested.students import find_students
from minitron.pipeline.pruning import Cut, prune_to
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER
from minitron.pipeline.sections import cut_source, prune_section
from minitron.prune.in_memory import prune_model
from minitron.prune.plan import PrunePlan, load_plan

STARTS_FOLDER = "starts"  # in the stage's own folder: each student as pruning would leave it


@dataclass(frozen=True, slots=True, kw_only=True)
class Nesting:
    """The students that a largest one holds.

    Attributes:
        students: What each has of it.
        trained: The same, each with its correction.
    """

    students: NestedStudents
    trained: tuple[TrainedStudent, ...]


def nest_students(context: StageContext, pruned: Checkpoint, model: PreTrainedModel) -> tuple[PreTrainedModel, Nesting]:
    """The pruned model with its units sorted by importance, and the recipe's smaller students as prefixes of it.

    Where the recipe repairs or compensates what it cuts, each student starts as pruning would leave it: it is cut out
    of the same teacher, with its own units, and what that makes of its weights beyond the slices is its correction.

    Args:
        context: The stage; all processes call this.
        pruned: The pruned checkpoint.
        model: The same, loaded.

    Raises:
        MinitronError: A student exceeds the pruned checkpoint, breaks a group, or is cut along an axis without scores.
    """
    shape, plan = pruned.shape, load_plan(context.run.plan)
    if pruned.extras:
        raise MinitronError(
            f"distill.students need prune.drop_mtp: true, since layers of {pruned.folder} that predict further tokens "
            "would have their hidden channels in another order"
        )
    teachers = load_scores(context.run.scores)
    scores = carried_scores(teachers, plan.keep)
    order = best_first(scores, shape)
    students = find_students(context.recipe, shape, scores)
    for student in students.students:
        _check_order(student, shape, order)
    largest = prune_model(model, PrunePlan(source=shape, target=shape, keep=order))
    section = prune_section(context.recipe)
    if section.repair is None and section.compensate is None:
        return largest, Nesting(
            students=students, trained=tuple(TrainedStudent(student=one) for one in students.students)
        )
    sorted_keep = compose_keeps(plan.source, plan.keep, order)
    if context.ranks.is_main:
        for student in students.students:
            keep = compose_keeps(plan.source, sorted_keep, student.keep(shape))
            _start(context, teachers, student, keep)
    context.ranks.barrier()
    trained = tuple(
        TrainedStudent(student=one, correction=_correction(largest, shape, one, open_checkpoint(_folder(context, one))))
        for one in students.students
    )
    return largest, Nesting(students=students, trained=trained)


def _check_order(student: NestedStudent, largest: HybridShape, order: Keep) -> None:
    unranked = sorted({axis for axis, layer in student.keep(largest).indices if (axis, layer) not in order.indices})
    if unranked:
        raise MinitronError(
            f"distill.students, {student.name}: {unranked[0]} must have scores to be cut, it has none; set score.width"
        )


def _folder(context: StageContext, student: NestedStudent) -> Path:
    return context.output / STARTS_FOLDER / student.name / CHECKPOINT_FOLDER


def _start(context: StageContext, scores: Scores, student: NestedStudent, keep: Keep) -> None:
    """Writes what pruning leaves of the teacher with a student's units; resumes an interrupted call."""
    source = open_checkpoint(cut_source(context.recipe, context.run))
    cut = Cut(source=source, scores=scores, target=keep.shape(source.shape), layers=keep.layers, keep=keep)
    prune_to(cut, _folder(context, student), section=prune_section(context.recipe), execution=context.execution)


@torch.no_grad()
def _correction(
    largest: PreTrainedModel, shape: HybridShape, student: NestedStudent, start: Checkpoint
) -> Mapping[str, torch.Tensor]:
    """What a student starts from, less its slices of the largest one, of tensors where they differ."""
    state, places = largest.state_dict(), model_places(shape)
    found = {}
    with open_weights(start) as read:
        for cut in tensor_cuts(shape, student.keep(shape)):
            sliced = cut_tensor(read_place(state, places[cut.source]), cut).float().cpu()
            difference = read(cut.name).float() - sliced
            if difference.any():
                found[cut.name] = difference
    return found


def write_nesting(nesting: Nesting, folder: Path) -> None:
    """Writes the students of a checkpoint's weights, and their corrections, beside them."""
    for trained in nesting.trained:
        if trained.correction:
            write_correction(trained.correction, folder, trained.student.name)
    write_students(nesting.students, folder)
