"""The recipe: everything a run depends on, in one YAML file that is checked whole before anything starts."""

from minitron.recipe.budget import BudgetSection
from minitron.recipe.distill import DepthFirstSection, DistillSection
from minitron.recipe.evaluate import EvaluateSection, Task
from minitron.recipe.load import load_recipe, make_section
from minitron.recipe.prune import CalibrationSection, PruneSection, RepairSection
from minitron.recipe.recipe import Recipe
from minitron.recipe.score import DepthSection, ScoreSection, WidthSection
from minitron.recipe.search import SearchSection, SizeRange, TournamentSection
from minitron.recipe.section import RecipeError, Section, Source

__all__ = [
    "BudgetSection",
    "CalibrationSection",
    "DepthFirstSection",
    "DepthSection",
    "DistillSection",
    "EvaluateSection",
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
    "TournamentSection",
    "WidthSection",
    "load_recipe",
    "make_section",
]
