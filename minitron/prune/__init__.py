"""Scores + Candidate -> a smaller checkpoint that plain transformers loads."""

from minitron.prune.checkpoint import check_params, prune_checkpoint
from minitron.prune.memory import prune_in_place, prune_model
from minitron.prune.plan import PrunePlan, load_plan, save_plan

__all__ = ["PrunePlan", "check_params", "load_plan", "prune_checkpoint", "prune_in_place", "prune_model", "save_plan"]
