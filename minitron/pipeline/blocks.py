"""Selection of the blocks that a recipe keeps, by depth scores under quotas."""

from minitron.errors import MinitronError
from minitron.importance.scores import ScoreArray
from minitron.importance.selection import top_blocks
from minitron.models.families.family import Family
from minitron.models.quotas import BlockQuotas
from minitron.models.shape import HybridShape
from minitron.recipe.recipe import Recipe


def kept_blocks(recipe: Recipe, shape: HybridShape, depth_L: ScoreArray, kept: int) -> tuple[int, ...]:
    """Ascending indices of the `kept` best blocks; the recipe's quota of attention blocks stays.

    Raises:
        ShapeError: The recipe's quota does not allow so few blocks.
    """
    return top_blocks(depth_L, shape.hybrid_override_pattern, kept, quotas=block_quotas(recipe, shape.family))


def block_quotas(recipe: Recipe, family: Family) -> BlockQuotas:
    """The recipe's quota of attention blocks."""
    return BlockQuotas(at_least=dict.fromkeys(family.kinds_that_keep("kv"), recipe.search.keep_attention))


def check_depth_target(recipe: Recipe, blocks: int, fewest: int) -> None:
    """Validates that a greedy removal of blocks ends at the depth that the recipe asks for.

    Args:
        recipe: The recipe.
        blocks: The teacher's blocks.
        fewest: The least blocks that are asked for.

    Raises:
        MinitronError: It leaves more blocks than are asked for, or other than the depth stages ask for.
    """
    remove = recipe.score.depth.remove
    left = blocks - remove
    reached = left == fewest if recipe.depth_first is not None else left <= fewest
    if remove and not reached:
        raise MinitronError(
            f"score.depth.remove must reach the blocks that are to be left, it leaves {left} of {blocks} and "
            f"{fewest} are asked for"
        )
