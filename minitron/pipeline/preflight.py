"""Refusing, before the first stage runs, what a later one would refuse."""

import numpy as np
from transformers.training_args import OptimizerNames

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.errors import MinitronError
from minitron.models.shape import HybridShape
from minitron.pipeline.stages.depth import kept_blocks
from minitron.pipeline.stages.score import calibration_settings
from minitron.recipe.lengths import check_lengths
from minitron.recipe.recipe import Recipe
from minitron.recipe.space import search_space
from minitron.search.solver import solve_budget


def check_recipe(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Refuses a recipe that the stages cannot follow.

    Raises:
        MinitronError: The search asks for more than the teacher has or finds nothing within the limits, block quotas or
            rounds cannot be kept to, a distillation has less than one batch, or layers that predict further tokens are
            in the way of a cut.
    """
    teacher = checkpoint.shape
    axes = teacher.family.axes
    blockwise = sorted(axis for axis in recipe.search.sizes if axis in axes and axes[axis].block is not None)
    if checkpoint.extras and blockwise and not recipe.prune.drop_mtp:
        raise MinitronError(
            f"search.{blockwise[0]} needs prune.drop_mtp: true, since nothing is known of it in the layers of "
            f"{checkpoint.folder} that predict further tokens"
        )
    depth = calibration_settings(recipe.score).depth
    if depth is not None:
        depth.quotas.check(teacher.hybrid_override_pattern, teacher.num_hidden_layers - depth.remove)
    _check_search(recipe, teacher)
    check_lengths(recipe)
    _check_training(recipe, teacher)


def _check_training(recipe: Recipe, teacher: HybridShape) -> None:
    known = [name.value for name in OptimizerNames]
    for section in recipe.trained:
        if section.optim not in known:
            raise MinitronError(f"optim must be one of Trainer's, {', '.join(known)}, got {section.optim!r}")
    kept = recipe.distill.teacher
    if kept.mode == "cached" and kept.top_k >= teacher.vocab_size:
        raise MinitronError(
            f"distill.teacher.top_k must be below the vocabulary's {teacher.vocab_size}, got {kept.top_k}"
        )


def _check_search(recipe: Recipe, teacher: HybridShape) -> None:
    workload, limits = recipe.budget.workload, recipe.budget.limits
    if recipe.search.choose == "throughput" and limits.device is None:
        raise MinitronError("search.choose=throughput needs a gpu: give budget.gpu or budget.throughput")
    blocks = teacher.num_hidden_layers

    def kept_layers(kept: int) -> tuple[int, ...]:
        return kept_blocks(recipe, teacher, np.zeros(blocks), kept)  # which ones is not known before they are scored

    space = search_space(recipe.search, teacher, kept_layers)
    depths = [len(layers) for layers in space.layers]
    if recipe.depth_first is not None:
        depths = [recipe.depth_first.num_hidden_layers]
        kept_layers(depths[0])
    elif depths == [blocks]:
        solve_budget(space, workload, limits, top_k=1)
    left = blocks - recipe.score.depth.remove
    reached = left == depths[0] if recipe.depth_first is not None else left <= min(depths)
    if recipe.score.depth.remove and not reached:
        raise MinitronError(
            f"score.depth.remove must reach the blocks that are to be left, it leaves {left} of {blocks} and "
            f"{min(depths)} are asked for"
        )
