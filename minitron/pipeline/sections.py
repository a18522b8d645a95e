"""Sections of a recipe, with settings that they leave out taken from other sections or from the teacher."""

from dataclasses import replace
from pathlib import Path

from minitron.importance.settings import DepthSettings
from minitron.models.config import config_for_shape, read_config, shape_from_config
from minitron.pipeline.run_folder import RunFolder
from minitron.recipe.distill import CorrectionSection, DepthFirstSection
from minitron.recipe.prune import BlockWidthsSection, CalibrationSection, PruneSection
from minitron.recipe.recipe import Recipe
from minitron.recipe.score import ScoreSection
from minitron.search.limits import Limits


def score_section(recipe: Recipe) -> ScoreSection:
    """How the recipe scores widths; after a depth stage, blocks are not ranked again."""
    if recipe.depth_first is None:
        return recipe.score
    return recipe.score.model_copy(update={"depth": DepthSettings()})


def prune_section(recipe: Recipe) -> PruneSection:
    """How the recipe prunes, with calibration text that it leaves out taken from its score section."""
    filled = {}
    for name in ("compensate", "block_widths", "repair"):
        section: CalibrationSection | BlockWidthsSection | None = getattr(recipe.prune, name)
        if section is not None:
            text = {"data": section.data or recipe.score.data, "seq_len": section.seq_len or recipe.score.seq_len}
            filled[name] = section.model_copy(update=text)
    return recipe.prune.model_copy(update=filled)


def correction_section(recipe: Recipe) -> CorrectionSection | None:
    """How the teacher is corrected, with text that it leaves out taken from the distillation; None where it is not."""
    section = recipe.correct_teacher
    if section is None or section.data:
        return section
    return section.model_copy(update={"data": recipe.distill.curriculum[0].data})


def depth_first_section(recipe: Recipe) -> DepthFirstSection:
    """The depth stages' section, in a recipe that has them."""
    assert recipe.depth_first is not None
    return recipe.depth_first


def cut_source(recipe: Recipe, run: RunFolder) -> Path:
    """The checkpoint that is scored, searched and pruned: the teacher, or what the depth stages left of it."""
    return Path(recipe.teacher) if recipe.depth_first is None else run.depth_distilled


def teaching_checkpoint(recipe: Recipe, run: RunFolder) -> Path:
    """The checkpoint that students learn from: the teacher, corrected first where the recipe says so."""
    return Path(recipe.teacher) if recipe.correct_teacher is None else run.corrected_teacher


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
