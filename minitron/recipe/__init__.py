"""The recipe: everything a run depends on, in one YAML file that is checked whole before anything starts."""

from minitron.recipe.budget import BudgetSection
from minitron.recipe.devices import DevicesSection
from minitron.recipe.distill import (
    SPEED_SETTINGS,
    WATCHING_SETTINGS,
    CorrectionSection,
    DepthFirstSection,
    DistillSection,
    HiddenSection,
    LossSection,
    TeacherSection,
    TrainSection,
)
from minitron.recipe.evaluate import EvaluateSection, Task
from minitron.recipe.lengths import check_lengths
from minitron.recipe.load import load_recipe, make_section
from minitron.recipe.prune import CalibrationSection, PruneSection, RepairSection
from minitron.recipe.recipe import Recipe
from minitron.recipe.score import DepthSection, ScoreSection, WidthSection
from minitron.recipe.search import SearchSection, SizeRange, TournamentSection
from minitron.recipe.section import RecipeError, Section, Source
from minitron.recipe.space import search_space

__all__ = [
    "SPEED_SETTINGS",
    "WATCHING_SETTINGS",
    "BudgetSection",
    "CalibrationSection",
    "CorrectionSection",
    "DepthFirstSection",
    "DepthSection",
    "DevicesSection",
    "DistillSection",
    "EvaluateSection",
    "HiddenSection",
    "LossSection",
    "PruneSection",
    "Recipe",
    "RecipeError",
    "RepairSection",
    "ScoreSection",
    "SearchSection",
    "Section",
    "SizeRange",
    "Source",
    "Task",
    "TeacherSection",
    "TournamentSection",
    "TrainSection",
    "WidthSection",
    "check_lengths",
    "load_recipe",
    "make_section",
    "search_space",
]
