"""Preflight validation of a recipe against its teacher, before the first stage runs. Loads no torch."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from minitron.checkpoints.block_width_classes import check_block_widths
from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.distill.optimizers import OPTIMIZER_NAMES
from minitron.errors import MinitronError
from minitron.models.families.token_mixers import token_mixers
from minitron.models.shape import HybridShape
from minitron.pipeline.blocks import check_depth_target, kept_blocks
from minitron.pipeline.nested.students import find_students
from minitron.pipeline.sections import search_limits, with_cut_vocabulary
from minitron.recipe.lengths import check_lengths
from minitron.recipe.recipe import Recipe
from minitron.recipe.source import faulty_text, sources_in
from minitron.recipe.source_checks import check_held_out, check_sources
from minitron.recipe.space import search_space
from minitron.recipe.tokens import require_model_tokens
from minitron.search.solver import solve_budget
from minitron.vocabulary.rewriting import named_ids
from minitron.vocabulary.selection import require_size, required_ids
from minitron.vocabulary.tokenizer_file import read_tokenizer_file


def check_recipe(recipe: Recipe) -> None:
    """Refuses a recipe that the stages cannot follow.

    Raises:
        CheckpointError: The teacher is not a whole checkpoint of a known family.
        MinitronError: Text is missing, the search asks for more than the teacher has or finds nothing within the
            limits, block quotas or rounds cannot be kept to, a phase of distillation has less than one batch, or layers
            that predict further tokens are in the way of a cut.
    """
    checkpoint = open_checkpoint(Path(recipe.teacher))
    check_text(recipe)
    task = recipe.evaluate.task
    require_model_tokens(checkpoint, sources_in(recipe), task=None if task is None else task.path)
    _check_extras(recipe, checkpoint)
    check_against_teacher(recipe, _least_vocabulary(recipe, checkpoint))


def check_processes(recipe: Recipe, processes: int) -> None:
    """Refuses a recipe that so many processes of a launch cannot go through together, before hours of it are done.

    Raises:
        MinitronError: There are fewer samples than processes, a batch cannot be shared out, the teacher takes one
            process, or the search would start processes in each of them.
    """
    if recipe.score.samples < processes:
        raise MinitronError(f"score.samples must be one for each of {processes} processes, got {recipe.score.samples}")
    for section in recipe.trained:
        groups, rest = divmod(processes, section.context_parallel)
        if rest or section.batch_size % groups:
            raise MinitronError(
                f"a launch's processes must share out batch_size={section.batch_size} sequences equally"
                + (f", {section.context_parallel} at each" if section.context_parallel > 1 else "")
                + f", got {processes} processes"
            )
    if processes > 1 and recipe.distill.teacher.mode == "layerwise":
        raise MinitronError("a layerwise teacher takes one process; in several use a cached or an online one")
    if processes > 1 and recipe.search.processes > 1:
        raise MinitronError(
            f"search.processes must be 1 where a launcher starts several processes, {processes} here, since these "
            f"measure the candidates, got {recipe.search.processes}; --set search.processes=1"
        )


def _least_vocabulary(recipe: Recipe, checkpoint: Checkpoint) -> HybridShape:
    """The teacher's shape with as few tokens as may be left of it: a coverage's number is known once text is counted.

    Raises:
        MinitronError: The tokenizer is of a kind that is not cut, or the recipe's size is not possible.
    """
    section, shape = recipe.prune.vocabulary, checkpoint.shape
    if section is None:
        return shape
    file = read_tokenizer_file(checkpoint.folder)
    required = required_ids(file, shape.vocab_size, named_ids(checkpoint.folder, file))
    require_size(section, required, shape.vocab_size)
    if section.size is not None:
        return with_cut_vocabulary(recipe, shape)
    least = -(-len(required) // section.multiple_of) * section.multiple_of
    return replace(shape, vocab_size=min(least, shape.vocab_size))


def check_text(recipe: Recipe) -> None:
    """Refuses a recipe whose text is not there, or holds no such records or none that its teacher's template takes.

    Raises:
        MinitronError: Every fault at once, a line each.
    """
    faults = [sentence for _, sentence in faulty_text(recipe)]
    task = recipe.evaluate.task
    if task is not None and not Path(task.path).is_file():
        faults.append(f"a task must be a file that is there, {task.path} is not")
    if faults:
        raise MinitronError(*faults)
    check_sources(list(sources_in(recipe)), Path(recipe.teacher))
    check_held_out(recipe.evaluate.data)


def missing_text(recipe: Recipe) -> list[str]:
    """Text that the recipe names and that is not there, each once; the task's problems are the last."""
    missing = [source.path for source, _ in faulty_text(recipe)]
    task = recipe.evaluate.task
    if task is not None and not Path(task.path).is_file() and task.path not in missing:
        missing.append(task.path)
    return missing


def check_against_teacher(recipe: Recipe, teacher: HybridShape) -> None:
    """Refuses a recipe that does not suit the teacher's shape; neither weights nor text are looked at.

    Raises:
        MinitronError: See `check_recipe`.
    """
    depth = recipe.score.depth
    if depth.remove:
        depth.quotas(teacher.family).check(teacher.hybrid_override_pattern, teacher.num_hidden_layers - depth.remove)
    _check_search(recipe, teacher)
    if recipe.prune.block_widths is not None:
        check_block_widths(teacher)
    check_lengths(recipe)
    check_training(recipe, teacher)
    if recipe.distill.students and recipe.depth_first is None:
        find_students(recipe, teacher)  # what the search chooses is smaller still: that is checked before training


def check_training(recipe: Recipe, teacher: HybridShape) -> None:
    """Refuses settings of training that the teacher's vocabulary or Trainer does not allow.

    Raises:
        MinitronError: An optimizer is unknown, text of a family that does not split it is to lie in parts, or a cache
            keeps as many tokens as the vocabulary has.
    """
    for section in recipe.trained:
        if section.optim not in OPTIMIZER_NAMES:
            known = ", ".join(OPTIMIZER_NAMES)
            raise MinitronError(f"optim must be one of Trainer's, {known}, got {section.optim!r}")
        if section.context_parallel > 1:
            token_mixers(teacher.model_type)
    kept = recipe.distill.teacher
    if kept.mode == "cached" and kept.top_k >= teacher.vocab_size:
        raise MinitronError(
            f"distill.teacher.top_k must be below the vocabulary's {teacher.vocab_size}, got {kept.top_k}"
        )


def _check_extras(recipe: Recipe, checkpoint: Checkpoint) -> None:
    axes = checkpoint.shape.family.axes
    blockwise = sorted(axis for axis in recipe.search.sizes if axis in axes and axes[axis].blocks is not None)
    if checkpoint.extras and blockwise and not recipe.prune.drop_mtp:
        raise MinitronError(
            f"search.{blockwise[0]} needs prune.drop_mtp: true, since nothing is known of it in the layers of "
            f"{checkpoint.folder} that predict further tokens"
        )


def _check_search(recipe: Recipe, teacher: HybridShape) -> None:
    workload, limits = recipe.budget.workload, search_limits(recipe)
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
    check_depth_target(recipe, blocks, min(depths))
