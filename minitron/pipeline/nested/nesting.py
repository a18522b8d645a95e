"""The order of units in the weights that students share, and what each student has of them."""

from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.errors import MinitronError
from minitron.importance.ordering import best_first, carried_scores
from minitron.importance.scores import load_scores
from minitron.models.keep import Keep
from minitron.models.nested import NestedStudent, NestedStudents
from minitron.models.shape import HybridShape
from minitron.pipeline.calibration import open_stack, read_samples
from minitron.pipeline.context import StageContext
from minitron.pipeline.nested.students import find_students
from minitron.pipeline.sections import prune_section
from minitron.prune.in_memory import prune_model
from minitron.prune.norm_compensation import norm_scales
from minitron.prune.plan import PrunePlan, load_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Nesting:
    """How the largest student's units are sorted, and the students that it holds then.

    Attributes:
        order: Every unit of every scored axis, the best first; all blocks.
        students: The smaller students.
    """

    order: Keep
    students: NestedStudents


def nest_students(context: StageContext, pruned: Checkpoint) -> Nesting:
    """The recipe's smaller students as prefixes of the pruned checkpoint with its units sorted by importance.

    Raises:
        MinitronError: A student exceeds the pruned checkpoint, breaks a group, or is cut along an axis without scores.
    """
    recipe, shape = context.recipe, pruned.shape
    if pruned.extras:
        raise MinitronError(
            f"distill.students need prune.drop_mtp: true, since layers of {pruned.folder} that predict further tokens "
            "would have their hidden channels in another order"
        )
    scores = carried_scores(load_scores(context.run.scores), load_plan(context.run.plan).keep)
    order = best_first(scores, shape)
    students = find_students(recipe, shape, scores)
    for student in students.students:
        _check_order(student, shape, order)
    scaled = tuple(_compensated(context, pruned, student, order) for student in students.students)
    return Nesting(order=order, students=replace(students, students=scaled))


def _check_order(student: NestedStudent, largest: HybridShape, order: Keep) -> None:
    unranked = sorted({axis for axis, layer in student.keep(largest).indices if (axis, layer) not in order.indices})
    if unranked:
        raise MinitronError(
            f"distill.students, {student.name}: {unranked[0]} must have scores to be cut, it has none; set score.width"
        )


def _compensated(context: StageContext, pruned: Checkpoint, student: NestedStudent, order: Keep) -> NestedStudent:
    """The student with factors on norms over fewer hidden channels, where the recipe compensates norms."""
    section = prune_section(context.recipe).compensate
    if section is None or student.shape.hidden_size == pruned.shape.hidden_size:
        return student
    # The checkpoint is not sorted yet, so channels are taken where they lie.
    channels = order.indices["hidden_size", None][: student.shape.hidden_size]
    keep = Keep(layers=student.layers, indices={("hidden_size", None): channels})
    plan = PrunePlan(source=pruned.shape, target=keep.shape(pruned.shape), keep=keep)
    stack = open_stack(pruned, layerwise=section.layerwise, device=context.device)
    samples = read_samples(section, pruned, seed=context.recipe.seed)
    return replace(student, scales=norm_scales(stack, samples, plan, batch_size=section.batch_size))


def sort_units(model: PreTrainedModel, shape: HybridShape, order: Keep) -> PreTrainedModel:
    """The same function with its units in another order, as a new model."""
    return prune_model(model, PrunePlan(source=shape, target=shape, keep=order))
