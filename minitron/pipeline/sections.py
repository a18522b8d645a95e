"""Sections of a recipe, with settings that they leave out taken from other sections or from the teacher."""

from dataclasses import replace
from pathlib import Path

from minitron.importance.settings import DepthSettings
from minitron.models.config import config_for_shape, read_config, shape_from_config
from minitron.models.shape import HybridShape
from minitron.pipeline.run_folder import RunFolder
from minitron.recipe.distill import CorrectionSection, DepthFirstSection
from minitron.recipe.prune import BlockWidthsSection, CalibrationSection, PruneSection, VocabularySection
from minitron.recipe.recipe import Recipe
from minitron.recipe.score import ScoreSection
from minitron.search.limits import Limits
from minitron.vocabulary.selection import require_size


def score_section(recipe: Recipe) -> ScoreSection:
    """How the recipe scores widths; after a depth stage, blocks are not ranked again."""
    if recipe.depth_first is None:
        return recipe.score
    return recipe.score.model_copy(update={"depth": DepthSettings()})


def prune_section(recipe: Recipe) -> PruneSection:
    """How the recipe prunes, with calibration text that it leaves out taken from its score section.

    The vocabulary has a stage of its own, before everything is scored.
    """
    filled: dict[str, CalibrationSection | BlockWidthsSection | None] = {"vocabulary": None}
    for name in ("compensate", "block_widths", "repair"):
        section: CalibrationSection | BlockWidthsSection | None = getattr(recipe.prune, name)
        if section is not None:
            text = {"data": section.data or recipe.score.data, "seq_len": section.seq_len or recipe.score.seq_len}
            filled[name] = section.model_copy(update=text)
    return recipe.prune.model_copy(update=filled)


def vocabulary_section(recipe: Recipe) -> VocabularySection | None:
    """How the vocabulary is cut, with text that it leaves out taken from the score section; None where it is not."""
    section = recipe.prune.vocabulary
    if section is None or section.data:
        return section
    return section.model_copy(update={"data": recipe.score.data})


def with_cut_teacher(recipe: Recipe, run: RunFolder) -> Recipe:
    """The recipe as the stages after `vocabulary` follow it: its teacher has the kept tokens alone."""
    if recipe.prune.vocabulary is None:
        return recipe
    return recipe.model_copy(update={"teacher": str(run.cut_teacher)})


def with_cut_vocabulary(recipe: Recipe, teacher: HybridShape) -> HybridShape:
    """The teacher's shape as budgets and searches see it, before any text is counted.

    Raises:
        MinitronError: The recipe keeps more tokens than the teacher has.
    """
    section = recipe.prune.vocabulary
    if section is None or section.size is None:
        return teacher
    require_size(section, (), teacher.vocab_size)
    return replace(teacher, vocab_size=section.size)


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
