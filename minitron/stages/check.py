"""Refusing, before the first stage runs, what a later one would refuse."""

import numpy as np

from minitron.hybrid.shape import HybridShape
from minitron.importance import BlockQuotas, top_blocks
from minitron.recipe import DistillSection, Recipe
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
    _check_tokens("distill", recipe.distill, recipe.distill.tokens)
    if recipe.search.choose == "tournament":
        _check_tokens("search.tournament", recipe.distill, min(recipe.search.tournament.tokens))
    first = recipe.depth_first
    if first is not None:
        _check_tokens("depth_first.distill", first.distill, first.distill.tokens)
        pattern, quotas = teacher.hybrid_override_pattern, BlockQuotas(at_least={"*": recipe.search.keep_attention})
        top_blocks(np.zeros(len(pattern)), pattern, first.num_hidden_layers, quotas=quotas)


def _check_tokens(name: str, section: DistillSection, tokens: int) -> None:
    batch_tokens = section.batch_size * section.seq_len
    if tokens < batch_tokens:
        raise ValueError(
            f"{name}.tokens must fill one batch of {section.batch_size} x {section.seq_len} = {batch_tokens:,} tokens, "
            f"got {tokens:,}"
        )
