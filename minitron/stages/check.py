"""Refusing, before the first stage runs, what a later one would refuse."""

from minitron.hybrid.shape import HybridShape
from minitron.recipe import Recipe
from minitron.stages.score import calibration_settings
from minitron.stages.search import search_space


def check_recipe(recipe: Recipe, teacher: HybridShape) -> None:
    """Refuses a recipe that the stages cannot follow.

    Raises:
        ValueError: The search asks for more than the teacher has, or a distillation for less than one batch.
    """
    depth = calibration_settings(recipe.score).depth
    if depth is not None:
        depth.quotas.check(teacher.hybrid_override_pattern, teacher.num_hidden_layers - depth.remove)
    search_space(recipe.search, teacher, lambda kept: tuple(range(kept)))
    section = recipe.distill
    batch_tokens = section.batch_size * section.seq_len
    rounds = recipe.search.tournament.tokens if recipe.search.choose == "tournament" else ()
    for name, tokens in (("distill.tokens", section.tokens), *(("search.tournament.tokens", each) for each in rounds)):
        if tokens < batch_tokens:
            raise ValueError(
                f"{name} must fill one batch of {section.batch_size} x {section.seq_len} = {batch_tokens:,} tokens, "
                f"got {tokens:,}"
            )
