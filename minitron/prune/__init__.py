"""Scores + Candidate -> a smaller checkpoint that plain transformers loads."""

from minitron.prune.checkpoint import check_params, prune_checkpoint
from minitron.prune.journal import is_unfinished
from minitron.prune.memory import prune_model
from minitron.prune.plan import PrunePlan, load_plan, save_plan

__all__ = ["PrunePlan", "check_params", "is_unfinished", "load_plan", "prune_checkpoint", "prune_model", "save_plan"]
