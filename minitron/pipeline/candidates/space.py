"""The shapes that a recipe searches of a scored source, and the importance that each keeps."""

from functools import cache

from minitron.importance.retained import retained_shares
from minitron.importance.scores import Scores
from minitron.models.shape import HybridShape
from minitron.pipeline.blocks import kept_blocks
from minitron.recipe.recipe import Recipe
from minitron.recipe.space import search_space
from minitron.search.solver import Shares
from minitron.search.space import SearchSpace


def scored_space(recipe: Recipe, source: HybridShape, scores: Scores) -> tuple[SearchSpace, Shares]:
    """The recipe's search space, whose blocks are the best by their scores, and what the units of each choice keep.

    Args:
        recipe: The recipe.
        source: The shape that is cut.
        scores: Its scores.
    """
    space = search_space(recipe.search, source, lambda kept: kept_blocks(recipe, source, scores.depth, kept))
    return space, cache(lambda layers: retained_shares(scores, source, layers))
