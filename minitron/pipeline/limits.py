"""The limits that a recipe's search keeps to. Loads no torch."""

from dataclasses import replace
from pathlib import Path

from minitron.models.config import config_for_shape, read_config, shape_from_config
from minitron.recipe.recipe import Recipe
from minitron.search.limits import Limits


def search_limits(recipe: Recipe) -> Limits:
    """The recipe's limits, with the keys that a student's `config.json` has where a reader's rule asks for them.

    Raises:
        ShapeError: The teacher's `config.json` is needed for that and cannot be read.
    """
    limits = recipe.budget.limits
    if not limits.serving.readers:
        return limits
    config = read_config(Path(recipe.teacher))
    keys = frozenset(config_for_shape(config, shape_from_config(config)))
    return replace(limits, serving=replace(limits.serving, config_keys=keys))
