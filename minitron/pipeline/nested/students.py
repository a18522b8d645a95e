"""Smaller students of a recipe as nested ones of a shape. Loads no torch."""

from dataclasses import replace

import numpy as np

from minitron.errors import MinitronError
from minitron.importance.scores import Scores
from minitron.importance.selection import removal_order
from minitron.models.nested import NestedStudent, NestedStudents
from minitron.models.shape import HybridShape
from minitron.pipeline.blocks import block_quotas
from minitron.recipe.recipe import Recipe
from minitron.recipe.students import StudentSection


def find_students(recipe: Recipe, largest: HybridShape, scores: Scores | None = None) -> NestedStudents:
    """The recipe's smaller students in a largest one of a shape.

    Args:
        recipe: The recipe.
        largest: The shape.
        scores: Its scores; where None, any blocks may be those that go.

    Raises:
        ShapeError: The shape holds no such student, or a quota of blocks cannot be kept to.
    """
    sections = recipe.distill.students
    depth_L = np.zeros(largest.num_hidden_layers) if scores is None else scores.depth
    fewest = min((section.depth or largest.num_hidden_layers for section in sections), default=len(depth_L))
    removed = removal_order(
        depth_L, largest.hybrid_override_pattern, fewest, quotas=block_quotas(recipe, largest.family)
    )
    empty = NestedStudents(students=(), removed=removed)
    return replace(empty, students=tuple(_student(empty, largest, section) for section in sections))


def _student(students: NestedStudents, largest: HybridShape, section: StudentSection) -> NestedStudent:
    try:
        found = students.of_size(largest, section.widths, section.depth, name=section.name)
    except MinitronError as error:
        raise MinitronError(f"distill.students, {section.name}: {error}") from error
    return replace(found, share=section.share, weight=section.weight)
