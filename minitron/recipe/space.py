"""The recipe's sizes and ranges as a search space over a teacher."""

from collections.abc import Callable

from minitron.errors import RecipeError
from minitron.models.shape import HybridShape
from minitron.recipe.search import SearchSection, SizeRange
from minitron.search.space import SearchSpace, size_range


def search_space(
    section: SearchSection, teacher: HybridShape, kept_layers: Callable[[int], tuple[int, ...]]
) -> SearchSpace:
    """The recipe's search space over a teacher.

    Args:
        section: The recipe's sizes and ranges.
        teacher: The shape that is cut.
        kept_layers: Number of blocks -> which blocks stay.

    Raises:
        RecipeError: A size exceeds the teacher's, breaks a group, or a range is empty.
    """
    blocks, given = teacher.num_hidden_layers, section.num_hidden_layers
    depths: tuple[int, ...] = (blocks,)
    if isinstance(given, SizeRange):
        depths = tuple(range(given.max or blocks, given.min - 1, -(given.step or 1)))
    elif given is not None:
        depths = given
    if not depths or max(depths) > blocks:
        raise RecipeError(f"search.num_hidden_layers must hold sizes up to the teacher's {blocks}, got {list(depths)}")
    sizes = {}
    for name, found in section.sizes.items():
        axis = teacher.family.axis_named(name)
        if axis not in teacher.family.axes or not teacher.sizes[axis]:
            raise RecipeError(f"search.{name} must be an axis of the teacher, a {teacher.model_type} without it")
        if isinstance(found, SizeRange):
            sizes[axis] = size_range(teacher, axis, low=found.min, high=found.max, step=found.step)
        else:
            sizes[axis] = found
    return SearchSpace(
        source=teacher,
        layers=tuple(kept_layers(depth) for depth in depths),
        sizes=sizes,
        intermediate_ratios=section.intermediate_ratio or (),
    )
